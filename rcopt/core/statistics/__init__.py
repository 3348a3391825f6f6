"""Choosing, certifying and how far chance goes."""
