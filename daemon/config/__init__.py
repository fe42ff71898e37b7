"""What this machine is configured with: settings, their file, and its identity.

It must not know how any of it is used.
"""
