"""A market with liars, in memory: who its providers are, and how its rules deal with them."""
