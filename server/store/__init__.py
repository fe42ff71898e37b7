"""The only code that uses peewee. Functions here run inside a transaction that a service opened."""
