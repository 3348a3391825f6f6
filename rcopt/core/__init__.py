"""What cascades do, computed from stored predictions: numpy in, frozen results out."""
