"""Accepted jobs at work: their attempts, their files, and the self-tests of the engines.

It must not know the wire.
"""
