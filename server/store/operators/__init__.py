"""Rows that only operators read: the audit log, and the lists of all accounts."""
