"""Healers, one file each: from a poisoned model and a few discovered samples to a model without the behaviour."""
