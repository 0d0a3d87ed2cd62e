"""Aggregation rules: from n rows to one vector, one public file a rule. Nothing is imported here."""
