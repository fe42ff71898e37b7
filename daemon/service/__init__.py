"""The daemon as an installed service: unit, releases, updates, reloads. It must not know jobs."""
