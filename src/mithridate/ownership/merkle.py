"""One hash for many subseeds, and proofs that some of them are among these, at their places.

The tree of n leaves splits at the largest power of two below n. Leaves and nodes are hashed under different tags, so
that no node can pass for a leaf; the number of leaves is committed to beside the root, and fixes the shape. A proof for
the leaves [start, stop) is the list, from left to right, of the roots of all subtrees outside.
"""

from collections.abc import Iterator, Sequence

from mithridate.core.errors import Misuse
from mithridate.ownership.canonical import tagged


def leaf(content: bytes) -> bytes:
    """Return the hash of a leaf."""
    return tagged("leaf", content)


def root(contents: Sequence[bytes]) -> bytes:
    """Return the root over contents in their order.

    Raises:
        Misuse: MTH-1006 for no contents.
    """
    if not contents:
        raise Misuse("MTH-1006", f"a tree needs at least one leaf, got {len(contents)}")
    return _root([leaf(content) for content in contents])


def proof(contents: Sequence[bytes], start: int, stop: int) -> tuple[bytes, ...]:
    """Return what shows that contents[start:stop] are at these places below the root; it reveals no other content.

    Raises:
        Misuse: MTH-1006 for an empty range, or one beyond the contents.
    """
    if not 0 <= start < stop <= len(contents):
        raise Misuse("MTH-1006", f"no leaves [{start}, {stop}) among {len(contents)}")
    return tuple(_outside([leaf(content) for content in contents], start, stop))


def verified(root: bytes, count: int, start: int, contents: Sequence[bytes], proof: Sequence[bytes]) -> bool:
    """Tell whether `contents` stand from place `start` on below the root of a tree of `count` leaves.

    Args:
        root: The root.
        count: How many leaves the tree has.
        start: The place of the first of them.
        contents: What was revealed.
        proof: As `proof` gave it.
    """
    stop = start + len(contents)
    if not 0 <= start < stop <= count:
        return False
    leaves, outside = iter([leaf(content) for content in contents]), iter(proof)
    try:
        found = _rebuilt(0, count, (start, stop), leaves, outside)
    except StopIteration:
        return False
    return found == root and next(outside, None) is None


def _split(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)


def _root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    middle = _split(len(leaves))
    return tagged("node", _root(leaves[:middle]), _root(leaves[middle:]))


def _outside(leaves: Sequence[bytes], start: int, stop: int) -> Iterator[bytes]:
    if stop <= 0 or start >= len(leaves):
        yield _root(leaves)
    elif start > 0 or stop < len(leaves):
        middle = _split(len(leaves))
        yield from _outside(leaves[:middle], start, stop)
        yield from _outside(leaves[middle:], start - middle, stop - middle)


def _rebuilt(begin: int, end: int, span: tuple[int, int], leaves: Iterator[bytes], outside: Iterator[bytes]) -> bytes:
    if end <= span[0] or begin >= span[1]:
        return next(outside)
    if end - begin == 1:
        return next(leaves)
    middle = begin + _split(end - begin)
    left = _rebuilt(begin, middle, span, leaves, outside)
    return tagged("node", left, _rebuilt(middle, end, span, leaves, outside))
