"""The server: the only program that touches the database. rpc > services > store > domain."""
