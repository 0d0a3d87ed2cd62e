"""Protocols: node programs over a transport. Nothing is imported here."""
