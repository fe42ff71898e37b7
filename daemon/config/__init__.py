"""What this machine was configured with: settings, their file, and the identity. It must not know how any of it is used."""
