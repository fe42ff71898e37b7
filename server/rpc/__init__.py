"""The gRPC edge: convert, call, map the error. The only code of the server that knows the wire."""
