"""The pages: a first visitor's, and the API reference on which every endpoint can be tried."""
