"""The session protocol, pure: events and messages in, effects out. It must not know gRPC, tasks or files."""
