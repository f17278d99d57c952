"""`python -m lucidcam`, for machines where the script is not on the path."""

from lucidcam.cli import main

if __name__ == "__main__":
    main()
