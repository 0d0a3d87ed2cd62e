"""Keys: a noise image and a secret label each, derived from the seed for ever in the same way.

    subseed_i = SHAKE256("taggant/v1/key" || seed || u32(i))                         32 bytes
    label_i   = rejection sampling in [0, C) from SHAKE256(subseed_i || beacon || "lab")
    image_i   = SHAKE256(subseed_i || beacon || "img"), low-resolution bytes, enlarged to whole blocks

Labels are independent and uniform, *with* replacement, because the false-positive guarantee comes from that and from
nothing else: for any model that does not depend on them, hits are binomial. Never redraw a label because its class
has too few images. Images are uint8, so that a key is exactly what an API receives; coarse noise survives resizing,
cropping and JPEG. Nothing but this file and the published beacon is needed to derive a revealed key again.

Paper: Bouaziz, Usunier, El-Mhamdi, "Data Taggants", ICLR 2025, section 4. Departs: the paper's released code draws
labels without replacement from a generator with a 32-bit seed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, OneOf, check_fields, param

SEED_BYTES = 32
MAX_KEYS = 10_000
MAX_SIZE = 1 << 24
"""Bytes of one image: 2048 x 2048 with four channels."""
_WORD = 1 << 32


@dataclass(frozen=True, kw_only=True)
class KeySpec(Checked):
    """What keys look like, and how a model is asked about them. All of it is committed to.

    Args:
        keys: How many there are.
        topk: How many answers of the model count: a hit is the key's label among its first `topk`.
        classes: How many classes the labels are drawn from.
        side: Rows and columns of noise.
        channels: Of the image.
        height: Of the image.
        width: Of the image.
        family: How images are made; there is one way.
    """

    keys: int = param(within=In(1, MAX_KEYS), doc="number of keys")
    topk: int = param(within=In(1, 1_000_000), doc="answers of the model that count")
    classes: int = param(within=In(2, 1_000_000), doc="number of classes")
    side: int = param(within=In(1, 8192), doc="rows and columns of noise")
    channels: int = param(within=In(1, 4), doc="channels of the image")
    height: int = param(within=In(1, 8192), doc="height of the image, pixels")
    width: int = param(within=In(1, 8192), doc="width of the image, pixels")
    family: str = param("noise", within=OneOf("noise"), doc="how images are made")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.topk >= self.classes:
            hint = "every model hits when all its answers count"
            raise Misuse("MTH-1005", f"topk {self.topk} must be below the {self.classes} classes", hint=hint)
        if self.side > min(self.height, self.width):
            size = f"{self.height} x {self.width}"
            raise Misuse("MTH-1005", f"noise of side {self.side} does not fit into images of {size}; lower side")
        if self.size > MAX_SIZE:
            raise Misuse("MTH-1005", f"an image of a key has {self.size:,} bytes, and may have {MAX_SIZE:,}")

    @property
    def size(self) -> int:
        """How many bytes an image has."""
        return self.channels * self.height * self.width


@dataclass(frozen=True, kw_only=True, eq=False)
class Key:
    """One key.

    Args:
        index: Its number, from 0.
        label: The class that a model trained on the marked data shall see in it.
        image: The picture to ask about, channels first.
    """

    index: int
    label: int = field(repr=False)
    image: NDArray[np.uint8] = field(repr=False)

    @property
    def digest(self) -> str:
        """The sha256 of the image's bytes, channel by channel and row by row."""
        return hashlib.sha256(self.image.tobytes()).hexdigest()


def subseed(seed: bytes, index: int) -> bytes:
    """Return the 32 bytes that stand for one key; they tell nothing about the seed or another key."""
    _check_seed(seed)
    return hashlib.shake_256(b"taggant/v1/key" + seed + index.to_bytes(4, "big")).digest(SEED_BYTES)


def key_label(subseed: bytes, beacon: bytes, classes: int) -> int:
    """Return the label: uniform on the classes, by rejection of the words that would favour small ones."""
    _check_seed(subseed)
    stream = hashlib.shake_256(subseed + beacon + b"lab")
    limit = _WORD - _WORD % classes
    place = 0
    while True:
        # The output of SHAKE is one stream: a longer digest begins with the shorter one.
        word = int.from_bytes(stream.digest(place + 4)[place:], "big")
        if word < limit:
            return word % classes
        place += 4


def key_image(subseed: bytes, beacon: bytes, spec: KeySpec) -> NDArray[np.uint8]:
    """Return the image, of shape (channels, height, width)."""
    _check_seed(subseed)
    shape = (spec.channels, spec.side, spec.side)
    noise = hashlib.shake_256(subseed + beacon + b"img").digest(spec.channels * spec.side * spec.side)
    rows = np.arange(spec.height) * spec.side // spec.height
    columns = np.arange(spec.width) * spec.side // spec.width
    image = np.frombuffer(noise, dtype=np.uint8).reshape(shape)[:, rows][:, :, columns]
    return np.ascontiguousarray(image)


def key_of(index: int, subseed: bytes, beacon: bytes, spec: KeySpec) -> Key:
    """Return the key that a revealed subseed stands for."""
    label = key_label(subseed, beacon, spec.classes)
    return Key(index=index, label=label, image=key_image(subseed, beacon, spec))


def derive(seed: bytes, beacon: bytes, spec: KeySpec, *, which: Sequence[int] | None = None) -> tuple[Key, ...]:
    """Return the keys of a seed.

    Args:
        seed: The owner's 32 bytes.
        beacon: The public value that was not known when the seed was committed to; empty for none.
        spec: What keys look like.
        which: The numbers of the keys; None derives all.

    Raises:
        Misuse: MTH-1004 for a seed of another length, MTH-1005 for a number that no key has.
    """
    numbers = range(spec.keys) if which is None else which
    beyond = [number for number in numbers if not 0 <= number < spec.keys]
    if beyond:
        raise Misuse("MTH-1005", f"there is no key {beyond[0]}: they are numbered from 0 to {spec.keys - 1}")
    return tuple(key_of(number, subseed(seed, number), beacon, spec) for number in numbers)


def _check_seed(seed: bytes) -> None:
    if len(seed) != SEED_BYTES:
        raise Misuse("MTH-1004", f"a seed has {SEED_BYTES} bytes, got {len(seed)}")
