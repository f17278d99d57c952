"""The pass over samples."""
