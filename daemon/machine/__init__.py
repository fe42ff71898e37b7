"""This machine: its GPUs, their health, its clock and its owner's rules.

It must not know sessions or jobs.
"""
