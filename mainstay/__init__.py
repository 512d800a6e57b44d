"""Mainstay: the platform layer between products and the models they call."""
