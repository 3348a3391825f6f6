"""What the report shows, computed before anything is drawn."""
