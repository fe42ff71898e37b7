"""A renter's right to its own data: the export of all of it, and the deletion of the account."""
