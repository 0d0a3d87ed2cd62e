"""Poison packs: making, applying, saving, verifying, exporting and importing them.

A pack is an overlay of ids, uint8 images and labels on a training split, with a manifest whose claims `verify_pack`
recomputes. Nothing in it, and nothing that is exported, is pickled.
"""

from mithridate.data._pack import PoisonPack, make_pack, with_trigger
from mithridate.data._pack_checks import Check, verify_pack
from mithridate.data._pack_formats import EXPORT_FORMATS, IMPORT_FORMATS, export_pack, import_pack

__all__ = [
    "EXPORT_FORMATS",
    "IMPORT_FORMATS",
    "Check",
    "PoisonPack",
    "export_pack",
    "import_pack",
    "make_pack",
    "verify_pack",
    "with_trigger",
]
