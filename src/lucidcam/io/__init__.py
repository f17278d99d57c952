"""Files: images, videos, bytes behind addresses, folders that are written whole or not at all."""
