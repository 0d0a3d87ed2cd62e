"""Unlearning, one file each: from a poisoned model and some of its poisons to a healed model."""
