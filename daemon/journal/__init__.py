"""What the daemon has promised, safe from a crash. It must not know the server or any engine."""
