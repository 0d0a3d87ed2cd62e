"""Pre-aggregators: from n rows to m mixtures of them, one public file each. Nothing is imported here."""
