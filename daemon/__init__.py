"""The provider's daemon: holds a session with the server, reports the GPUs and runs jobs.

It shares nothing with the server and the gateway but the protobuf package `dcp.v1`.
"""
