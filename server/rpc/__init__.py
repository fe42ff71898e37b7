"""The gRPC edge: converts messages, calls the services, maps errors. Only this package knows the wire."""
