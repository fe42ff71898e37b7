"""A renter's rights over its own data: the export of all of it, and the deletion of the account."""
