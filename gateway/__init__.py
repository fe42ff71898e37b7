"""The gateway: JSON over HTTP for clients, gRPC to the server."""
