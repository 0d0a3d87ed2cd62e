"""Data sets of other distributions: found without being imported, checked, and blamed by name."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mithridate.audit.config import AuditConfig
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.data.names import PLUGINS, check_source
from mithridate.data.sources import load

STRANGER = '''"""Squares: eight grey images of two sizes of squares. Beware.

Paper    Nobody, Nowhere.
"""

import io
import numpy as np
from mithridate.data._base import AbstractSource
from mithridate.data._raw import RawSet, RawSplit
from PIL import Image

LABELS = np.array([0, 1] * 4)
PIXELS = np.zeros((8, 8, 8, 1), np.uint8)
PIXELS[1::2, 2:6, 2:6] = 200


class Squares(AbstractSource):
    def read(self):
        train = RawSplit.of_pixels(PIXELS, LABELS, "squares")
        return RawSet(train, train, ("none", "some"), {"key": "squares 1"}, encoded=False)


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(out, "png")
    return out.getvalue()


class Encoded(AbstractSource):
    def read(self):
        split = RawSplit(LABELS, lambda: iter([[png(p) for p in PIXELS]]), lambda row: f"png {row}")
        return RawSet(split, split, ("none", "some"), {"key": "squares 1"})


def wrong(train=None, *, labels=LABELS, classes=("none", "some"), batches=None, record={"key": "x"}, error=None):
    class Wrong(AbstractSource):
        def read(self):
            if error is not None:
                raise error
            split = RawSplit(LABELS, batches or (lambda: iter([list(PIXELS)])), lambda row: f"row {row}")
            found = RawSet(split, split, classes, record, encoded=False)
            # Past the type checks of the test run, which users do not have.
            object.__setattr__(split, "labels", labels)
            object.__setattr__(found, "train", train or split)
            return found

    return Wrong


def fails():
    yield list(PIXELS[:3])
    raise KeyError("gone")


NoSource = int
NoClass = 3
Raises = wrong(error=FileNotFoundError(2, "No such file", "squares.bin"))
NoSet = type("NoSet", (AbstractSource,), {"read": lambda self: 3})
NoKey = wrong(record={})
NoSplit = wrong(train="train")
FloatLabels = wrong(labels=LABELS.astype(float))
Empty = wrong(labels=LABELS[:0])
Floats = wrong(batches=lambda: iter([list(PIXELS.astype(float))]))
TooFew = wrong(batches=lambda: iter([list(PIXELS[:5])]))
Late = wrong(batches=fails)
OneClass = wrong(classes=("none",))
EmptyClass = wrong(classes=("none", "some", "many"))
NoImage = wrong(batches=lambda: iter([[b"no image"] * 8]))
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution that announces data sets; PLUGINS looks anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "squares_of_a_stranger.py").write_text(STRANGER)

    def call(*points: str) -> None:
        info = tmp_path / "squares-3.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 3.1\n")
        (info / "entry_points.txt").write_text("\n".join(["[mithridate.datasets]", *points, ""]))

    def forget() -> None:
        vars(PLUGINS).pop("_plugins", None)
        sys.modules.pop("squares_of_a_stranger", None)

    forget()
    yield call
    forget()


def test_a_data_set_of_a_plugin_is_named_without_importing_it(install: Install) -> None:
    install("squares = squares_of_a_stranger:Squares")
    check_source("squares")
    assert AuditConfig.model_validate({"data": {"source": "squares"}}).data.source == "squares"
    (entry,) = PLUGINS.entries()
    assert entry.summary == "Squares: eight grey images of two sizes of squares."
    assert entry.source == "Nobody, Nowhere. (plugin of squares 3.1)"
    with pytest.raises(Misuse, match="did you mean 'squares'"):
        check_source("squraes")
    assert "squares_of_a_stranger" not in sys.modules


@pytest.mark.parametrize("store", ["resident", "mapped"])
def test_pixels_and_encoded_images_are_the_same_data(install: Install, store: str) -> None:
    install("squares = squares_of_a_stranger:Squares", "encoded = squares_of_a_stranger:Encoded")
    plain, encoded, again = load("squares"), load("encoded", store=store), load("encoded", store=store)
    assert plain.name == "squares"
    assert plain.train.classes == ("none", "some")
    assert plain.fingerprint == encoded.fingerprint == again.fingerprint
    rows = torch.arange(8)
    assert torch.equal(plain.train.images.gather(rows), encoded.train.images.gather(rows))
    assert plain.train.labels.tolist() == [0, 1] * 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NoSource", "int does not derive from mithridate.data._base.AbstractSource"),
        ("NoClass", "is int and no class"),
        ("Missing", "Missing"),
        ("Raises", "FileNotFoundError"),
        ("NoSet", "read() returned int and no RawSet"),
        ("NoKey", "no text under 'key'"),
        ("NoSplit", "the training split is str and no RawSplit"),
        ("FloatLabels", "training labels must be"),
        ("Floats", "row 0 is neither bytes nor uint8"),
        ("TooFew", "8 labels and 5 images"),
        ("Late", "KeyError: 'gone'"),
    ],
)
def test_a_broken_plugin_is_one_error_that_names_it(install: Install, name: str, words: str) -> None:
    install(f"odd = squares_of_a_stranger:{name}")
    with pytest.raises(Misuse) as caught:
        load("odd")
    assert caught.value.code == "MTH-0102"
    assert f"the plugin squares_of_a_stranger:{name} (squares) of data set 'odd' does not work" in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("name", "code"), [("Empty", "0252"), ("OneClass", "0242"), ("EmptyClass", "0253"), ("NoImage", "0201")]
)
def test_what_a_plugin_reads_is_checked_like_any_data(install: Install, name: str, code: str) -> None:
    install(f"odd = squares_of_a_stranger:{name}")
    with pytest.raises((Misuse, BadArtefact)) as caught:
        load("odd")
    assert caught.value.code == f"MTH-{code}"


def test_a_broken_plugin_is_a_warning_in_a_listing(install: Install) -> None:
    install("squares = squares_of_a_stranger:Squares", "lost = gone_module:Lost")
    with pytest.warns(RuntimeWarning, match=r"gone_module:Lost \(squares\) of data set 'lost'"):
        entries = PLUGINS.entries()
    assert [entry.name for entry in entries] == ["squares"]


def test_a_plugin_cannot_take_the_name_of_a_data_set_of_ours(install: Install) -> None:
    install("digits = squares_of_a_stranger:Squares")
    with pytest.warns(RuntimeWarning, match="'digits' of the plugin squares_of_a_stranger:Squares is ignored"):
        assert PLUGINS.names() == ()
