"""The web pages: the home page, and the API reference with a form to try every endpoint."""
