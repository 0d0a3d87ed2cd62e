"""Ownership of data sets: secret keys, marks that carry them, exact tests, and certificates that anybody can check."""
