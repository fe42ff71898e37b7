"""Parts of scripts.calibrate: worse copies of a model, and its answers."""
