"""One file per wire format, both directions, no I/O."""
