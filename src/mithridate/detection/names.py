"""Detectors by name, found by reading their files, without torch."""

from mithridate.core.registry import Registry

DETECTORS = Registry("mithridate.detection", "detector", "mithridate.detectors")

DEFAULT = ("spectral", "activation-clustering", "spectre", "beatrix")
"""What a scan runs unless it is told otherwise: what looks for a second population inside a class."""
