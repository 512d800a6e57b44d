"""Measures what Mainstay costs: processor time per request and per event beside nginx and peers in the same run."""
