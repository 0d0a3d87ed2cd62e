"""One text for one document: what is hashed and signed is JSON that depends on nothing but its content.

Objects are sorted, nothing is spaced, text is ASCII, and there are no fractional numbers: exact ones are written
`num/den`, rounded ones as text. So two programs in two languages hash the same bytes.
"""

import hashlib
import json
import re
from fractions import Fraction
from typing import Any

from mithridate.core.errors import BadArtefact, Misuse

HEX32 = re.compile(r"[0-9a-f]{64}")
MAX_DIGITS = 4000
"""Digits of a number in a fraction. 500 keys among 1000 classes need 1500, and Python prints no more than 4300."""
_FRACTION = re.compile(r"(0|[1-9][0-9]{0,4095})/([1-9][0-9]{0,4095})")


def canonical(value: object) -> bytes:
    """Return the one text of a document.

    Raises:
        Misuse: MTH-1014 for what is not text, whole numbers, truth values, null, lists and objects of these.
    """
    _only_plain(value, "document")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def tagged(tag: str, *parts: bytes) -> bytes:
    """Return the sha256 of parts after a tag that no other use of the hash shares."""
    return hashlib.sha256(b"taggant/v1/" + tag.encode() + b"".join(parts)).digest()


def is_hash(text: object) -> bool:
    """Tell whether this is a sha256 as we write it: 64 hexadecimal digits in lower case."""
    return isinstance(text, str) and HEX32.fullmatch(text) is not None


def fraction_text(value: Fraction) -> str:
    """Return `num/den` in lowest terms, also for whole numbers."""
    return f"{value.numerator}/{value.denominator}"


def read_fraction(text: object, what: str = "number") -> Fraction:
    """Return the fraction that `num/den` stands for, which must be in lowest terms.

    Raises:
        BadArtefact: MTH-1014 for anything else.
    """
    found = _FRACTION.fullmatch(text) if isinstance(text, str) else None
    if found is not None:
        value = Fraction(int(found[1]), int(found[2]))
        if fraction_text(value) == text:
            return value
    raise BadArtefact("MTH-1014", f"the {what} {str(text)[:60]!r} is no fraction num/den in lowest terms")


def _only_plain(value: object, where: str) -> None:
    if value is None or isinstance(value, str | int):
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise Misuse("MTH-1014", f"{where} has the key {key!r}, which is no text")
            _only_plain(item, key)
        return
    if isinstance(value, list | tuple):
        for item in value:
            _only_plain(item, where)
        return
    raise Misuse(
        "MTH-1014", f"{where} holds {value!r}: documents have text and whole numbers, no {type(value).__name__}"
    )


Document = dict[str, Any]
