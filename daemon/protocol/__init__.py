"""The session protocol, pure: events in, effects out. It must not know gRPC, tasks or files."""
