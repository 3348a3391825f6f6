"""Several workers on one study: claims, slots, retrying."""
