"""What ``dcp-server`` does besides serving: one module for each command, and their arguments."""
