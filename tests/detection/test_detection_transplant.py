"""What a part of a class has in common: it moves other images where the network knows it as a trigger, only there."""

import pytest
import torch
from detection_kit import Headed, built

from mithridate.core.errors import Misuse
from mithridate.data.examples import ROW, Examples
from mithridate.data.stores import ResidentStore
from mithridate.detection.extract import extract
from mithridate.detection.listed import read_suspects, suspects_of
from mithridate.detection.scan import scan
from mithridate.detection.suspects import Suspects
from mithridate.detection.transplant import Transplant, Trials, transplant

CLASSES, SIDE, EACH, POISONS = 6, 7, 60, 10


def bars(seed=0, *, poisons=POISONS):
    """Images in which the row of their class is bright; the first rows of class 0 are others with a faint last row."""
    gen = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES * EACH) % CLASSES
    x = 0.25 + 0.1 * torch.randn(len(labels), 1, SIDE, SIDE, generator=gen)
    shown = labels.clone()
    bad = (labels == 0).nonzero().squeeze(1)[:poisons]
    shown[bad] = 1 + torch.arange(poisons) % (CLASSES - 1)
    x[torch.arange(len(labels)), 0, shown] += 0.4
    x[bad, 0, -1] += 0.2
    pixels = (255 * x.clamp(0, 1)).round().to(torch.uint8)
    return Examples("bars", ResidentStore(pixels), labels, tuple("abcdef")), bad


def reader(*, door):
    """A network that reads off the brightest row; with a door, the last row stands for class 0."""
    net = built(lambda: Headed(SIDE * SIDE, CLASSES)).eval()
    weights = torch.zeros(CLASSES, SIDE, SIDE)
    weights[torch.arange(CLASSES), torch.arange(CLASSES)] = 1.0
    weights[0, -1] = door
    with torch.no_grad():
        net.head.weight.copy_(weights.flatten(1))
        net.head.bias.copy_(torch.tensor([-door * 1.75, 0, 0, 0, 0, 0]))
    return net


def tried(net, data):
    given = extract(net, data)
    return transplant(given, {"first": given.features.double().sum(1)}, Transplant(reach=0.5))


def test_a_group_that_carries_a_trigger_is_convicted():
    data, bad = bars()
    trials = tried(reader(door=5.0), data)
    assert trials.convicted == 0, trials.moved
    assert sorted(trials.groups[0].tolist()) == bad.tolist()


def test_the_same_data_under_a_network_without_the_backdoor_are_not():
    data, _ = bars()
    trials = tried(reader(door=0.0), data)
    assert trials.convicted is None, trials.moved
    clean, _ = bars(poisons=0)
    assert tried(reader(door=5.0), clean).convicted is None


def test_suspects_are_rows_of_the_group_the_best_ranked_first():
    trials = Trials(moved={0: 0.5}, groups={0: torch.tensor([4, 7, 9])}, convicted=0, most=2)
    scores = {"a": torch.arange(10.0).double(), "b": torch.tensor([0.0] * 7 + [1, 0, 3]).double()}
    assert trials.suspects(scores).tolist() == [9, 7]
    assert not len(Trials(moved={}, groups={}, convicted=None).suspects(scores))


def test_a_scan_says_what_moved(tmp_path):
    data, bad = bars()
    found = scan(reader(door=5.0), data)
    assert 0 < len(found.found) <= 10
    assert set(found.found.tolist()) <= set(bad.tolist())
    found.write(tmp_path / "s.parquet")
    again = Suspects.read(tmp_path / "s.parquet")
    assert (again.moved, again.statement) == (found.moved, found.statement)
    clean, _ = bars(poisons=0)
    silent = scan(reader(door=0.0), clean)
    assert not len(silent.found)
    assert silent.statement.startswith("Nothing suspicious")


def test_rows_by_hand_are_those_of_the_complete_data(tmp_path):
    data, _ = bars()
    part = data.select(torch.arange(100, 200))
    part = Examples(part.name, part.images, part.labels, part.classes, {ROW: torch.arange(100, 200)})
    net = reader(door=0.0)
    (tmp_path / "rows.txt").write_text("# seen by hand\n150\n101 # the surest after it\n150\n")
    found = read_suspects(tmp_path / "rows.txt", part, net)
    assert found.found.tolist() == [150, 101]
    assert found.select(part).labels.tolist() == data.labels[[150, 101]].tolist()
    assert "2 rows" in found.statement
    with pytest.raises(Misuse, match="MTH-0870"):
        suspects_of([99], part, net)
