"""Ports of everything that is kept, and their adapters."""
