"""Images and stored predictions, read into arrays."""
