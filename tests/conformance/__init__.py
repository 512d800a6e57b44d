"""Tests that every wire format, provider and adapter of a port has to pass."""
