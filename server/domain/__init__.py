"""Pure rules: standard library only, no clock, no I/O, nothing of the wire."""
