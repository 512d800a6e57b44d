"""Artifacts, channels, snapshots: what should happen."""
