"""Tests of mainstay/access."""
