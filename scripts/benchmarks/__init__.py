"""``scripts/bench``: measures the programs as real processes, and compares the figures with their goals."""
