"""Examples: one fingerprint for one content, whatever holds it."""

import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_makers import KINDS, make_examples, make_store, random_pixels
from test_stores import refused

from mithridate.data.examples import ROW, Examples
from mithridate.data.stores import ResidentStore

EVERY = torch.arange(12)


def plain(seed: int = 0) -> Examples:
    return make_examples(ResidentStore(random_pixels(12, seed=seed)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_content_has_the_same_fingerprint_in_every_store(kind, tmp_path):
    examples = make_examples(make_store(kind, random_pixels(12), tmp_path), name=kind)
    assert examples.fingerprint == plain().fingerprint
    ids = [7, 0, 7]
    assert examples.pixel_hash(ids) == plain().pixel_hash(ids) == plain().pixel_hash(torch.tensor(ids))
    assert examples.select(ids).fingerprint == plain().select(ids).fingerprint


def test_the_fingerprint_is_what_the_module_says():
    examples = plain()
    header = {
        "schema": "mithridate.examples/1",
        "count": 12,
        "shape": [3, 6, 5],
        "classes": ["a", "b", "c"],
        "columns": [],
    }
    digest = hashlib.sha256(json.dumps(header).encode())
    digest.update(b"".join(int(label).to_bytes(8, "little") for label in examples.labels))
    for image in random_pixels(12):
        digest.update(hashlib.sha256(image.numpy().tobytes()).digest())
    assert examples.fingerprint == digest.hexdigest()


@settings(max_examples=50, deadline=None)
@given(row=st.integers(0, 11), place=st.integers(0, 89), change=st.integers(1, 255))
def test_one_changed_pixel_changes_the_fingerprint(row, place, change):
    examples = plain()
    pixels = examples.images.gather(torch.tensor([row]))
    pixels.view(-1)[place] += change
    changed = examples.overlay([row], pixels)
    assert changed.fingerprint != examples.fingerprint
    assert changed.pixel_hash([row]) != examples.pixel_hash([row])
    back = changed.overlay([row], examples.images.gather(torch.tensor([row])))
    assert back.fingerprint == examples.fingerprint


def test_everything_that_is_content_is_in_the_fingerprint():
    base = plain()
    one = torch.ones(12, dtype=torch.int64)
    groups = {"group": torch.zeros(12, dtype=torch.int64)}
    others = [
        Examples(base.name, base.images, base.labels.flip(0), base.classes),
        Examples(base.name, base.images, base.labels, ("a", "b", "x")),
        Examples(base.name, base.images, base.labels, (*base.classes, "d")),
        Examples(base.name, base.images, base.labels, base.classes, groups),
        Examples(base.name, base.images, base.labels, base.classes, {"group": one}),
        Examples(base.name, base.images, base.labels, base.classes, {"other": one}),
        Examples(base.name, ResidentStore(base.images.pixels.reshape(12, 3, 5, 6)), base.labels, base.classes),
        base.select(EVERY.flip(0)),
        base.select(EVERY[:-1]),
    ]
    prints = {each.fingerprint for each in (base, *others)}
    assert len(prints) == 1 + len(others)


def test_names_and_row_numbers_are_not_in_the_fingerprint():
    base = plain()
    renamed = Examples("other", base.images, base.labels, base.classes, {ROW: torch.arange(12) + 100})
    assert renamed.fingerprint == base.fingerprint


def test_overlaying_nothing_changes_nothing():
    base = plain()
    nothing = base.overlay([], base.images.gather(EVERY[:0]))
    assert nothing is base
    same = base.overlay([3, 1], base.images.gather(torch.tensor([3, 1])), base.labels[[3, 1]])
    assert same.fingerprint == base.fingerprint


def test_an_overlay_changes_its_rows_and_no_others():
    base, new = plain(), random_pixels(2, seed=9)
    over = base.overlay([5, 2], new, torch.tensor([0, 0]))
    assert over.labels.tolist() == [0, 1, 0, 0, 1, 0, 0, 1, 2, 0, 1, 2]
    expected = base.images.gather(EVERY)
    expected[5], expected[2] = new[0], new[1]
    assert torch.equal(over.images.gather(EVERY), expected)
    assert base.labels.tolist() == (EVERY % 3).tolist()


def test_select_takes_every_column_along():
    base = plain()
    base = Examples(base.name, base.images, base.labels, base.classes, {"group": torch.arange(12) * 10})
    some = base.select([4, 4, 1])
    assert some.columns["group"].tolist() == [40, 40, 10]
    assert some.labels.tolist() == [1, 1, 1]
    assert len(some) == 3
    twice = base.select([4, 9, 1]).select([2, 0])
    assert twice.fingerprint == base.select([1, 4]).fingerprint


def test_rows_of_a_class_come_in_order_and_cover_everything():
    base = plain()
    found = [base.rows_of_class(label).tolist() for label in range(3)]
    assert found[1] == [1, 4, 7, 10]
    assert sorted(row for rows in found for row in rows) == EVERY.tolist()


def test_bad_columns_are_refused():
    base = plain()
    with refused("MTH-0241", "12 images", "11 entries", "labels"):
        Examples("x", base.images, base.labels[:-1], base.classes)
    with refused("MTH-0241", "group"):
        Examples("x", base.images, base.labels, base.classes, {"group": torch.zeros(3)})
    with refused("MTH-0242", "row 2 has label 2", r"\[0, 1\]"):
        Examples("x", base.images, base.labels, ("a", "b"))
    with refused("MTH-0242", "label -1"):
        Examples("x", base.images, base.labels - 1, base.classes)
    with refused("MTH-0242", "no class 3"):
        base.rows_of_class(3)
    with refused("MTH-0240", "row 12 "):
        base.select([12])
    with refused("MTH-0240", "row -1 "):
        base.pixel_hash([-1])
    with refused("MTH-0242", "label 7"):
        base.overlay([0], random_pixels(1), torch.tensor([7]))
    with refused("MTH-0243", "1 rows", "2 labels"):
        base.overlay([0], random_pixels(1), torch.tensor([1, 2]))


def test_moving_where_it_is_keeps_the_content():
    base = plain()
    assert base.to("cpu").fingerprint == base.fingerprint
    assert base.device == torch.device("cpu")
