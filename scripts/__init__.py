"""The project's own tools; nothing that a program imports."""
