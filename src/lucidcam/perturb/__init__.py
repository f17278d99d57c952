"""What an image is masked with, and the masks."""
