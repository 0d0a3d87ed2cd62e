"""Votes, the table, bad input, and the claim: poisons of a patch are found, and a clean model is left alone."""

import functools
import json
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from detection_kit import Conv, Headed, built, digits, images, planted, stamped, trained
from torch import nn

from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.intervals import wilson
from mithridate.data.examples import Examples
from mithridate.data.stores import ResidentStore
from mithridate.detection._base import AbstractDetector
from mithridate.detection.scan import make_detectors, scan, weights_hash
from mithridate.detection.spectral import SpectralSignatures
from mithridate.detection.suspects import Suspects
from mithridate.detection.votes import FLOOR, Jury, robust, vote, yardstick


def scores_with(bad, labels, shift, seed=0, count=2):
    """Scores of a few detectors: noise, and in some rows noise and a shift."""
    gen = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(len(labels), generator=gen, dtype=torch.float64).square() + shift * bad
        for name in ("one", "two", "three", "four")[:count]
    }


def test_robust_deviations_by_hand():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 103.0], dtype=torch.float64)
    torch.testing.assert_close(robust(values), torch.tensor([-2.0, -1, 0, 1, 100], dtype=torch.float64) / 1.4826)
    assert torch.equal(robust(torch.ones(7, dtype=torch.float64)), torch.zeros(7, dtype=torch.float64))
    mostly = torch.tensor([0.0] * 9 + [10.0], dtype=torch.float64)
    torch.testing.assert_close(robust(mostly), mostly / mostly.std())


def test_the_yardstick_by_hand():
    assert yardstick([0.0, 1.0, 2.0, 3.0, 100.0]) == (2.0, pytest.approx(1.4826))
    assert yardstick([1.0, 1.0, 1.0]) == (1.0, FLOOR)


def test_the_planted_rows_are_suspected_and_no_others():
    _, labels, bad = planted()
    ballot = vote(scores_with(bad, labels, 60.0), labels)
    assert ballot.leading == 0
    assert torch.equal(ballot.suspect, bad)
    assert ballot.rank[bad].sort().values.tolist() == list(range(1, 9))


def test_at_most_so_many_rows_are_suspected_and_the_best_of_them():
    _, labels, bad = planted()
    ballot = vote(scores_with(bad, labels, 60.0), labels, Jury(most=3))
    assert int(ballot.suspect.sum()) == 3
    assert ballot.rank[ballot.suspect].sort().values.tolist() == [1, 2, 3]


@pytest.mark.parametrize(("count", "at_most"), [(1, 6), (2, 1), (4, 1)])
def test_noise_is_left_alone(count, at_most):
    _, labels, bad = planted(poisons=0)
    seeds = range(60)
    alarms = sum(bool(vote(scores_with(bad, labels, 0.0, seed, count), labels).suspect.any()) for seed in seeds)
    assert alarms <= at_most


def test_a_detector_that_sees_nothing_does_not_hide_what_two_see():
    _, labels, bad = planted()
    scores = scores_with(bad, labels, 60.0) | {"blind": scores_with(bad, labels, 0.0, 9)["one"]}
    assert torch.equal(vote(scores, labels).suspect, bad)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e9])
def test_the_scale_of_a_score_and_of_a_class_means_nothing(factor):
    _, labels, bad = planted()
    scores = scores_with(bad, labels, 60.0)
    scaled = scores | {"one": factor * scores["one"] * (1 + labels) + labels}
    assert torch.equal(vote(scaled, labels).votes, vote(scores, labels).votes)


def test_one_odd_image_in_a_class_is_no_group():
    _, labels, bad = planted(poisons=1)
    assert not bool(vote(scores_with(bad, labels, 1e6), labels).suspect.any())


def test_three_classes_are_ranked_and_not_decided():
    _, labels, bad = planted(classes=3)
    ballot = vote(scores_with(bad, labels, 60.0), labels)
    assert not ballot.decided
    assert not bool(ballot.suspect.any())
    assert bool(bad[ballot.rank == 1])


def test_no_detectors_and_scores_that_are_no_numbers():
    with pytest.raises(Misuse, match="MTH-0864"):
        vote({}, torch.zeros(3, dtype=torch.int64))
    bad = torch.zeros(9, dtype=torch.float64)
    bad[4] = torch.nan
    with pytest.raises(Misuse, match=r"MTH-0866.*'odd'.*first row 4"):
        vote({"odd": bad}, torch.zeros(9, dtype=torch.int64))


@functools.cache
def table():
    """A scan of noise by an untrained network, with a group of suspects put in by hand."""
    data = images()
    found = scan(built(Conv), data, {"spectral": {}, "strip": {"overlays": 2}})
    found.suspect[found.rank <= 3] = True
    return found


def assert_equal(a: Suspects, b: Suspects):
    for name, value in vars(a).items():
        other = vars(b)[name]
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other), name
        elif name in ("scores", "ranks"):
            assert list(value) == list(other)
            assert all(torch.equal(value[key], other[key]) for key in value)
        else:
            assert value == other, name


def test_a_table_comes_back_as_it_was(tmp_path):
    path = tmp_path / "suspects.parquet"
    table().write(path)
    read = Suspects.read(path)
    assert_equal(read, table())
    assert read.statement == table().statement
    assert read.data == images().fingerprint
    assert read.model == weights_hash(built(Conv))
    assert read.settings["detectors"]["strip"] == {"overlays": 2}
    columns = pq.read_table(path)
    assert columns["class"].to_pylist()[:5] == ["a", "b", "c", "d", "a"]
    assert json.loads(columns.schema.metadata[b"mithridate"])["schema"] == "mithridate.suspects/1"


def test_suspects_are_selected_most_suspicious_first_and_only_from_their_data():
    found, data = table(), images()
    chosen = found.select(data)
    assert torch.equal(chosen.labels, data.labels[found.found])
    assert found.rank[found.found].tolist() == [1, 2, 3]
    with pytest.raises(Misuse, match="MTH-0869"):
        found.select(images(seed=1))


def test_row_ids_of_a_part_are_those_of_the_whole():
    data = images()
    whole = Examples(data.name, data.images, data.labels, data.classes, {"row": torch.arange(len(data))})
    part = whole.select(torch.arange(20, 120))
    found = scan(built(Conv), part, ["spectral"])
    assert torch.equal(found.rows, torch.arange(20, 120))


def rewritten(path: Path, change) -> Path:
    read = pq.read_table(path)
    pq.write_table(change(read), path)
    return path


def facts_changed(**changes):
    def change(read):
        facts = json.loads(read.schema.metadata[b"mithridate"]) | changes
        return read.replace_schema_metadata({b"mithridate": json.dumps(facts)})

    return change


def column_changed(name, values):
    def change(read):
        import pyarrow as pa

        return read.set_column(read.column_names.index(name), name, pa.array(values))

    return change


N = 120
TAMPERED = {
    "another schema": facts_changed(schema="other/1"),
    "no metadata": lambda read: read.replace_schema_metadata(None),
    "a detector that is not there": facts_changed(detectors=["spectral", "strip", "third"]),
    "a detector less": facts_changed(detectors=["spectral"]),
    "no detector": facts_changed(detectors=[]),
    "fewer classes": facts_changed(classes=["a", "b"]),
    "other class names": facts_changed(classes=["a", "b", "c", "e"]),
    "a class that is not there judged": facts_changed(anomalies={"9": 1.0}),
    "anomalies that are text": facts_changed(anomalies={"1": "high"}),
    "anomalies that are a list": facts_changed(anomalies=[1]),
    "a gate that is text": facts_changed(gate="2"),
    "a fingerprint that is a number": facts_changed(data=3),
    "a row twice": column_changed("row", [0] * N),
    "rows below zero": column_changed("row", list(range(-1, N - 1))),
    "a label out of range": column_changed("label", [7] * N),
    "labels and class names that differ": column_changed("label", [0] * N),
    "labels that are floats": column_changed("label", [0.0] * N),
    "more votes than detectors": column_changed("votes", [3] * N),
    "a score that is no number": column_changed("score:strip", [float("nan")] * N),
    "a score that is missing": column_changed("score:strip", [None] + [0.0] * (N - 1)),
    "ranks that are no ranking": column_changed("rank:spectral", [1] * N),
    "suspects that are numbers": column_changed("suspect", [1] * N),
    "no rows": lambda read: read.slice(0, 0),
    "a column less": lambda read: read.drop_columns(["votes"]),
    "a column more": lambda read: read.append_column("more", read["votes"]),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_table_that_contradicts_itself_is_refused(tmp_path, what):
    path = tmp_path / "suspects.parquet"
    table().write(path)
    with pytest.raises(BadArtefact, match="MTH-0867"):
        Suspects.read(rewritten(path, TAMPERED[what]))


def test_a_truncated_table_is_refused(tmp_path):
    path = tmp_path / "suspects.parquet"
    table().write(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadArtefact, match="MTH-02"):
        Suspects.read(path)


def relabelled(labels, classes=("a", "b", "c", "d")):
    data = images()
    return Examples("odd", data.images, torch.tensor(labels), classes)


def test_one_class_only():
    with pytest.raises(Misuse, match=r"MTH-0868.*'c'"):
        scan(built(Conv), relabelled([2] * N))


def test_a_class_with_one_row_is_ranked_last_and_said_so():
    with pytest.warns(RuntimeWarning, match="'d' have too few rows"):
        found = scan(built(Conv), relabelled([0, 1, 2] * 39 + [0, 1, 3]))
    assert 3 not in found.anomalies
    assert int(found.votes[-1]) == 0


def test_empty_data():
    empty = Examples("none", ResidentStore(torch.zeros(0, 1, 4, 4, dtype=torch.uint8)), torch.zeros(0).long(), ("a",))
    with pytest.raises(Misuse, match="MTH-0860"):
        scan(built(Conv), empty)


def test_nan_features_name_layer_and_rows():
    net = built(lambda: Headed(16, 4))
    data = images()

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net

        def forward(self, x):
            return self.body(torch.where(x[:, :, :1, :1] > 0.98, torch.nan, x))

    rows = (data.images.gather(torch.arange(N))[:, 0, 0, 0].float() / 255 > 0.98).nonzero().squeeze(1).tolist()
    with pytest.raises(Misuse, match=rf"MTH-0862.*'body.head'.*rows {rows[0]}"):
        scan(Odd(), data, ["spectral"])


def test_nan_weights_of_the_head_are_logits_that_are_not_finite():
    net = built(Conv)
    net.head.weight.data[0, 0] = torch.nan
    with pytest.raises(Misuse, match=r"MTH-0862.*the logits"):
        scan(net, images())


class Headless(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :4]


class Softmaxed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = built(Conv)

    def forward(self, x):
        return self.net(x).softmax(1)


class Wordy(nn.Module):
    def forward(self, x):
        return {"logits": x}


@pytest.mark.parametrize("make", [Headless, Softmaxed, Wordy])
def test_a_model_without_a_linear_head(make):
    with pytest.raises(Misuse, match=f"MTH-0861.*{make.__name__}"):
        scan(make(), images(), ["spectral"])


def test_fewer_logits_than_classes():
    with pytest.raises(Misuse, match=r"MTH-0863.*3 logits.*4 classes"):
        scan(built(lambda: Conv(3)), images())


def test_names_and_options_of_detectors():
    with pytest.raises(Misuse, match=r"MTH-0101.*spectral"):
        make_detectors(["spectrals"])
    with pytest.raises(Misuse, match=r"MTH-0123.*overlays"):
        make_detectors({"strip": {"overlay": 3}})
    with pytest.raises(Misuse, match="MTH-0864"):
        make_detectors([])
    with pytest.raises(Misuse, match="MTH-0864"):
        make_detectors(["strip", "strip"])
    assert list(make_detectors("strip")) == ["strip"]
    assert all(isinstance(detector, AbstractDetector) for detector in make_detectors(None).values())


def test_progress_goes_from_nothing_to_all():
    told = []
    scan(built(Conv), images(), ["spectral", "strip"], batch=50, progress=told.append)
    shares = [word["done"] for word in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert {word["detector"] for word in told} == {"features", "spectral", "strip"}


def test_weights_hash_sees_one_bit_and_a_name():
    a, b = built(Conv), built(Conv)
    assert weights_hash(a) == weights_hash(b)
    b.head.bias.data[0] += 1e-6
    assert weights_hash(a) != weights_hash(b)
    assert weights_hash(nn.Linear(2, 2)) != weights_hash(nn.Sequential(nn.Linear(2, 2)))


@functools.cache
def outcome(seed, rate):
    data, bad = stamped(seed, rate, side=3) if rate else (digits(), torch.zeros(len(digits()), dtype=torch.bool))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scan(trained(data, seed), data), bad


@pytest.mark.slow
def test_a_patch_at_two_percent_is_found_with_precision():
    right = named = 0
    for seed in range(4):
        found, bad = outcome(seed, 0.02)
        assert found.leading == 0, found.anomalies
        named += len(found.found)
        right += int(bad[found.found].sum())
    assert named >= 20, named  # in at least two of the four
    assert wilson(right, named).low > 0.75


@pytest.mark.slow
def test_a_clean_model_is_left_alone():
    for seed in range(4):
        found, _ = outcome(seed, 0.0)
        assert len(found.found) == 0, found.statement
        assert found.statement.startswith("Nothing suspicious")


def test_the_class_itself_can_be_taken_without_a_gate():
    _, labels, bad = planted()
    scores = scores_with(bad, labels, 60.0)
    assert not bool(vote(scores, labels, Jury(gate=1000.0)).suspect.any())
    assert bool(vote(scores, labels, Jury(gate=0.0)).suspect.any())


def test_scan_uses_the_options_it_is_given():
    assert isinstance(make_detectors(["spectral"])["spectral"], SpectralSignatures)
    few = scan(built(Conv), images(), {"strip": {"overlays": 1}}).scores["strip"]
    many = scan(built(Conv), images(), {"strip": {"overlays": 5}}).scores["strip"]
    assert not torch.equal(few, many)
