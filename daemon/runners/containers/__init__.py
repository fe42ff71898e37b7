"""Jobs in containers: what the container engine is asked for, and how. It must not know sessions."""
