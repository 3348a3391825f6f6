"""Several workers on one study: claims, places, outages."""
