"""Tests of the bench: that it runs."""
