"""The only code that knows peewee. Functions here run inside a transaction that a service opened."""
