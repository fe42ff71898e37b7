"""Owns how the daemon reads what programs of others send: JSON, HTTP answers and event streams, all bounded.

It must not know what the documents mean.
"""
