"""The nouns and pure functions."""
