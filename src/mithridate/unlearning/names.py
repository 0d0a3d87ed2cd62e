"""Healers by name, found by reading their files, without torch."""

from mithridate.core.registry import Registry

HEALERS = Registry("mithridate.unlearning", "healer", "mithridate.healers")
