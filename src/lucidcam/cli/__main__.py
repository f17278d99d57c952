"""`python -m lucidcam.cli`, for machines where the script is not on the path."""

from lucidcam.cli import main

main()
