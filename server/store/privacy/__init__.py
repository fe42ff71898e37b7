"""Rows for the export of a renter's data and for its erasure."""
