"""Generated from protos/ by scripts/generate; edit the protos instead."""
