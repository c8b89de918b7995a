"""Weights of other libraries, read into models of this package."""
