"""Results as one HTML file: a file per kind of result."""
