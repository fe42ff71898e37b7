"""The command `dcp`: a terminal's way to a market."""
