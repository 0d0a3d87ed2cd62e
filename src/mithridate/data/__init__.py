"""Examples, the stores that hold their pixels, sources, scenarios and poison packs."""
