"""The web page to explore a model: `lucidcam app`."""
