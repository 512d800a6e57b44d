"""Tests of mainstay/gateway."""
