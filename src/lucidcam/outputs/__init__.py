"""One file per format an explanation is written in; a writer is a function `(explanation, path, **options)`."""
