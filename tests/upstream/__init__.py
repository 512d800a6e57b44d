"""Tests of the ways to providers."""
