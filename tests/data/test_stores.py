"""Laws of stores: whatever holds the pixels, gathering and hashing answer for the same content."""

import hashlib
import os
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_makers import KINDS, make_store, mapped, random_pixels

from mithridate.core.codes import CODES
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.data.stores import MappedStore, OverlayStore, ResidentStore, Store, SubsetStore


def refused(code: str, *words: str, kind: type[Exception] = Misuse):
    """Expect an error of this code whose message names these words."""
    assert code in CODES
    return pytest.raises(kind, match=rf"(?s)\[{code}\]" + "".join(rf"(?=.*{word})" for word in words))


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


def test_every_kind_is_a_store(kind, tmp_path):
    store = make_store(kind, random_pixels(9), tmp_path)
    assert isinstance(store, Store)
    assert len(store) == 9 and store.shape == (3, 6, 5) and store.device == torch.device("cpu")


@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 4, 4)])
def test_gathering_is_indexing(kind, shape, tmp_path):
    pixels = random_pixels(30, shape=shape)
    store = make_store(kind, pixels, tmp_path)
    for index in (torch.arange(30), torch.tensor([29, 0, 7, 7]), torch.tensor([], dtype=torch.int64)):
        assert torch.equal(store.gather(index), pixels[index])


def test_what_was_gathered_may_be_written_to(kind, tmp_path):
    pixels = random_pixels(9)
    store = make_store(kind, pixels.clone(), tmp_path)
    store.gather(torch.arange(9)).zero_()
    assert torch.equal(store.gather(torch.arange(9)), pixels)


def test_row_hashes_are_the_sha256_of_each_image(kind, tmp_path):
    pixels = random_pixels(30)
    store = make_store(kind, pixels, tmp_path)
    expected = [hashlib.sha256(image.numpy().tobytes()).digest() for image in pixels]
    some = torch.tensor([3, 29, 3])
    assert [row.tobytes() for row in store.row_hashes(some)] == [expected[k] for k in some]  # before all are known
    assert [row.tobytes() for row in store.row_hashes()] == expected
    assert [row.tobytes() for row in store.row_hashes(some)] == [expected[k] for k in some]


def test_hashing_in_chunks_changes_nothing(monkeypatch):
    pixels = random_pixels(11)
    whole = ResidentStore(pixels).row_hashes()
    monkeypatch.setattr("mithridate.data._rows._CHUNK_BYTES", 2 * 90 + 1)
    assert np.array_equal(ResidentStore(pixels).row_hashes(), whole)


def test_a_strided_tensor_hashes_and_gathers_like_a_contiguous_one():
    pixels = random_pixels(8).to(memory_format=torch.channels_last)
    plain = ResidentStore(pixels.contiguous())
    assert np.array_equal(ResidentStore(pixels).row_hashes(), plain.row_hashes())
    assert torch.equal(ResidentStore(pixels).gather(torch.tensor([5, 1])), plain.gather(torch.tensor([5, 1])))


def test_a_row_that_does_not_exist_is_an_error(kind, tmp_path):
    store = make_store(kind, random_pixels(9), tmp_path)
    for row in (9, -1):
        with pytest.raises((Misuse, IndexError)):
            store.gather(torch.tensor([0, row]))


def test_moving_to_the_device_where_it_is_keeps_the_pixels(kind, tmp_path):
    pixels = random_pixels(9)
    store = make_store(kind, pixels, tmp_path).to("cpu")
    assert torch.equal(store.gather(torch.arange(9)), pixels)


@pytest.mark.parametrize("kind", ["resident", "mapped", "subset"])
def test_moving_to_another_device_keeps_shape_and_known_hashes(kind, tmp_path):
    store = make_store(kind, random_pixels(9), tmp_path)
    store.row_hashes()
    moved = store.to("meta")  # a device that holds no values: only what is known already can be answered
    assert moved.device.type == "meta" and moved.shape == store.shape and len(moved) == 9
    assert np.array_equal(moved.row_hashes(), store.row_hashes())


rows = st.lists(st.integers(0, 11), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(ids=st.sets(st.integers(0, 11), max_size=12), chosen=rows, index=st.lists(st.integers(0, 1000), max_size=8))
def test_select_overlay_and_gather_commute(ids, chosen, index):
    base, new = random_pixels(12), random_pixels(12, seed=1)
    over = torch.tensor(sorted(ids, key=lambda k: (k * 7) % 12), dtype=torch.int64)
    picked = torch.tensor(chosen)
    at = torch.tensor([k % len(chosen) for k in index], dtype=torch.int64)
    flat = base.clone()
    flat[over] = new[over]
    overlaid = OverlayStore(ResidentStore(base), over, new[over])
    first_overlay = SubsetStore(overlaid, picked)
    hit = torch.isin(picked, over)
    places = hit.nonzero().squeeze(1)
    first_select = OverlayStore(SubsetStore(ResidentStore(base), picked), places, new[picked[places]])
    for store in (first_overlay, first_select):
        assert torch.equal(store.gather(at), flat[picked][at])
        if isinstance(store, OverlayStore):
            assert torch.equal(store._gather(at, ask=False), flat[picked][at])  # the way of accelerators
        assert np.array_equal(store.row_hashes(), ResidentStore(flat[picked]).row_hashes())


def test_an_overlay_hashes_only_what_is_new(monkeypatch):
    base = ResidentStore(random_pixels(50))
    base.row_hashes()
    hashed = []
    from mithridate.data import stores

    original = stores.hash_rows
    monkeypatch.setattr(stores, "hash_rows", lambda pixels: hashed.append(len(pixels)) or original(pixels))
    overlay = OverlayStore(base, torch.tensor([4, 2]), random_pixels(2, seed=1))
    SubsetStore(overlay, torch.arange(40)).row_hashes()
    overlay.row_hashes()
    assert hashed == [2]


def test_a_few_hashes_do_not_cost_all(monkeypatch):
    from mithridate.data import stores

    hashed = []
    original = stores.hash_rows
    monkeypatch.setattr(stores, "hash_rows", lambda pixels: hashed.append(len(pixels)) or original(pixels))
    ResidentStore(random_pixels(100)).row_hashes(torch.tensor([5, 6]))
    assert hashed == [2]


def test_an_overlay_takes_the_memory_of_its_poisons():
    base = ResidentStore(random_pixels(20_000, shape=(3, 8, 8)))
    ids, new = torch.arange(0, 20_000, 1000), random_pixels(20, shape=(3, 8, 8), seed=1)
    index = torch.arange(64)
    tracemalloc.start()
    before = torch.randint(0, 2, (1,))  # what torch allocates once is not ours
    start = tracemalloc.take_snapshot()
    overlay = OverlayStore(base, ids, new)
    overlay.gather(index)
    grown = sum(stat.size_diff for stat in tracemalloc.take_snapshot().compare_to(start, "filename"))
    tracemalloc.stop()
    assert before is not None and grown < 200_000
    assert overlay.base is base and overlay._top.pixels.data_ptr() == new.data_ptr()
    held = [value for value in vars(overlay).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.numel() for tensor in held) < 20 * (8 * 8 * 3 + 10)


def test_overlays_that_do_not_fit_are_refused():
    base = ResidentStore(random_pixels(9))
    with refused("MTH-0243", "3 rows", r"\(2, 3, 6, 5\)"):
        OverlayStore(base, torch.tensor([1, 2, 3]), random_pixels(2))
    with refused("MTH-0243", r"\(1, 1, 6, 5\)"):
        OverlayStore(base, torch.tensor([1]), random_pixels(1, shape=(1, 6, 5)))
    with refused("MTH-0243", "row 4 is replaced twice"):
        OverlayStore(base, torch.tensor([4, 1, 4]), random_pixels(3))
    with refused("MTH-0240", "row 9 ", "9 rows"):
        OverlayStore(base, torch.tensor([9]), random_pixels(1))
    with refused("MTH-0240", "row -1 "):
        SubsetStore(base, torch.tensor([0, -1]))
    with refused("MTH-0241", "9 images"):
        ResidentStore(base.pixels, base.row_hashes()[:4])


# Mapped images


def test_a_mapped_file_holds_what_it_says(tmp_path):
    pixels = random_pixels(20)
    store = mapped(tmp_path, pixels)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["train.hashes", "train.images", "train.offsets"]
    offsets = np.fromfile(tmp_path / "index" / "train.offsets", "<i8")
    assert len(offsets) == 21 and offsets[-1] == (tmp_path / "train.images").stat().st_size
    assert np.array_equal(store.row_hashes(), ResidentStore(pixels).row_hashes())


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_mapped_images_do_not_depend_on_the_number_of_threads(tmp_path, threads):
    pixels = random_pixels(40)
    index = torch.randint(0, 40, (100,), generator=torch.Generator().manual_seed(3))
    assert torch.equal(mapped(tmp_path, pixels, threads).gather(index), pixels[index])


def test_mapped_images_may_be_gathered_by_many_threads_at_once(tmp_path):
    pixels = random_pixels(64)
    store = mapped(tmp_path, pixels, threads=3)
    filters = list(warnings.filters)
    wrong: list[int] = []

    def work(seed: int) -> None:
        index = torch.randint(0, 64, (200,), generator=torch.Generator().manual_seed(seed))
        if not torch.equal(store.gather(index), pixels[index]):
            wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert list(warnings.filters) == filters  # decoding in threads leaves the process as it was


def test_mapped_images_are_gathered_after_a_fork(tmp_path):
    pixels = random_pixels(8)
    store = mapped(tmp_path, pixels, threads=2)
    store.gather(torch.arange(8))  # the parent's threads exist and do not survive the fork
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(store.gather(torch.arange(8)), pixels) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_gathering_mapped_images_takes_the_memory_of_the_batch(tmp_path):
    count, shape = 96, (3, 48, 48)
    store = mapped(tmp_path, random_pixels(count, shape=shape), threads=2)
    store.gather(torch.arange(2))
    tracemalloc.start()
    for start in range(0, count, 8):
        store.gather(torch.arange(start, start + 8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batch = 8 * 3 * 48 * 48
    assert peak < 6 * batch  # the whole would be 12 batches


def test_an_importing_split_is_not_held_in_memory(tmp_path):
    made = []

    def batches():
        for seed in range(60):
            made.append(seed)
            yield list(random_pixels(20, shape=(32, 32, 3), seed=seed).numpy())

    from mithridate.data._importing import Gauge, write_mapped
    from mithridate.data._raw import RawSplit

    (tmp_path / "index").mkdir()
    split = RawSplit(np.zeros(1200, np.int64), batches, lambda row: f"row {row}")
    tracemalloc.start()
    write_mapped(tmp_path, tmp_path / "index", "train", split, Gauge())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(made) == 60
    assert peak < 1200 * 32 * 32 * 3 / 2
    assert len(MappedStore(tmp_path, "train", (3, 32, 32))) == 1200


def damage(path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(bytes(content))


def test_no_damaged_byte_of_a_mapped_file_ever_gives_another_pixel(tmp_path):
    pixels = random_pixels(4)
    mapped(tmp_path, pixels)
    images = tmp_path / "train.images"
    whole = images.read_bytes()
    found = 0
    places = range(0, len(whole), 5)
    for place in places:
        damage(images, place)
        store = MappedStore(tmp_path, "train", (3, 6, 5), threads=1)
        try:
            assert torch.equal(store.gather(torch.arange(4)), pixels)
        except BadArtefact as error:
            assert "train.images, image " in error.message
            found += 1
        images.write_bytes(whole)
    assert found > len(places) / 2  # some bytes of a PNG mean nothing, most do


def test_a_mapped_file_that_is_cut_or_mixed_up_is_refused(tmp_path):
    store = mapped(tmp_path, random_pixels(10))
    store.gather(torch.arange(10))
    images, hashes = tmp_path / "train.images", tmp_path / "index" / "train.hashes"
    whole = images.read_bytes()
    images.write_bytes(whole[:-60])
    with refused("MTH-0263", "train.images", kind=BadArtefact):
        len(MappedStore(tmp_path, "train", (3, 6, 5)))
    with pytest.raises(BadArtefact):  # open already: the last image is cut, and the process lives
        store.gather(torch.arange(10))
    images.write_bytes(whole)
    hashes.write_bytes(hashes.read_bytes()[:-32])
    with refused("MTH-0263", "hashes", kind=BadArtefact):
        MappedStore(tmp_path, "train", (3, 6, 5)).row_hashes()


def test_a_mapped_image_that_decodes_to_other_pixels_is_refused(tmp_path):
    pixels = random_pixels(2)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    mapped(tmp_path / "one", pixels)
    mapped(tmp_path / "two", pixels.flip(0))
    (tmp_path / "one" / "train.images").write_bytes((tmp_path / "two" / "train.images").read_bytes())
    with refused("MTH-0263", "does not decode to the imported pixels", kind=BadArtefact):
        MappedStore(tmp_path / "one", "train", (3, 6, 5)).gather(torch.tensor([0, 1]))
