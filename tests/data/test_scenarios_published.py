"""The shipped scenario lists: what was published, and on which data it may be used."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mithridate.data.scenarios as module
from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse
from mithridate.core.units import Pixels
from mithridate.data._scenario_lists import LIST_NAMES, ScenarioList, published_draws, read_list
from mithridate.data.examples import Examples
from mithridate.data.scenarios import check_scenario, scenarios
from mithridate.data.sources import DataSet
from mithridate.data.stores import ResidentStore

EPSILON = Pixels(8 / 255)
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SHARED = Path(os.environ.get("MITHRIDATE_DATA", "nowhere"))
TOXIC = {
    "toxic-c10-scratch": "cifar10_from_scratch",
    "toxic-c10-transfer": "cifar10_transfer_learning",
    "toxic-tiny-scratch": "tinyimagenet_from_scratch",
    "toxic-tiny-transfer": "tinyimagenet_transfer_learning",
}
# specs: key, target class, adversarial class, ordinal of the target among the test images of its class.
WITCHES = """2000000000 dog frog 876 | 2100000000 frog truck 172 | 2110000000 frog bird 228
2111000000 airplane dog 491
2111100000 airplane ship 125 | 2111110000 cat airplane 734 | 2111111000 automobile frog 340 | 2111111100 truck cat 372
2111111110 automobile ship 989 | 2111111111 automobile cat 291""".replace("|", "\n")
KEYS = [line.split() for line in WITCHES.splitlines()]


def blank(name: str, labels: torch.Tensor, num_classes: int, rows: torch.Tensor | None = None) -> Examples:
    """A split of one-pixel images with these labels; `rows` marks it as a part of a larger one."""
    pixels = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)
    columns = {} if rows is None else {"row": rows}
    return Examples(name, ResidentStore(pixels), labels, tuple(map(str, range(num_classes))), columns)


def of_list(published: ScenarioList) -> DataSet:
    """A data set in which every label that the list names is as it was published."""
    train = torch.arange(published.train_rows) % published.num_classes
    test = torch.arange(published.test_rows) % published.num_classes
    for setup in published.setups:
        test[setup.target] = setup.target_class
        train[list(setup.base_ids)] = setup.adversarial_class
    names = (("train", train), ("test", test))
    splits = [blank(f"{published.name} {name}", labels, published.num_classes) for name, labels in names]
    return DataSet(published.data, splits[0], splits[1], (0.5,), (0.2,))


def part(data: DataSet, per_class: int) -> DataSet:
    """The first rows of each class, as `load(..., per_class=)` keeps them."""
    classes = range(len(data.train.classes))
    rows = torch.cat([data.train.rows_of_class(label)[:per_class] for label in classes]).sort().values
    train = blank(data.train.name, data.train.labels[rows], len(classes), rows)
    return replace(data, train=train)


def draw(source: str, data: DataSet, budget: float, *, count: int | None = None, seed: int = 3, threat="single-class"):
    return scenarios(source, data, budget=budget, epsilon=EPSILON, count=count, seed=seed, threat=threat)


def refused(code: str, *words: str):
    assert code in CODES
    return pytest.raises(Misuse, match=rf"\[{code}\]" + "".join(rf"(?=.*{word})" for word in words))


# Witches' Brew


@pytest.mark.parametrize("key, target, adversarial, ordinal", KEYS)
def test_the_draws_of_each_published_key(key, target, adversarial, ordinal):
    found = published_draws(int(key), 500)
    assert (CIFAR[found.target_class], CIFAR[found.adversarial_class]) == (target, adversarial)
    assert found.target_ordinal == int(ordinal)
    assert len(set(found.poison_ordinals.tolist())) == 500


def test_the_first_poisons_of_the_first_published_key():
    assert published_draws(2_000_000_000, 500).poison_ordinals[:5].tolist() == [1997, 1682, 1863, 2408, 3307]


def test_the_shipped_list_is_the_published_one():
    found = read_list("witches-brew-10")
    shown = [[s.key, CIFAR[s.target_class], CIFAR[s.adversarial_class], str(s.target)] for s in found.setups]
    assert shown == KEYS


def test_the_longer_list_begins_with_the_published_keys_and_goes_on_by_their_law():
    ten, hundred = read_list("witches-brew-10"), read_list("witches-brew-100")
    assert hundred.setups[:10] == ten.setups
    assert (hundred.poisons, hundred.train_labels_sha256) == (ten.poisons, ten.train_labels_sha256)
    assert [setup.key for setup in hundred.setups[10:]] == [str(key) for key in range(90)]
    for setup in hundred.setups:
        drawn = published_draws(int(setup.key), hundred.poisons)
        assert (setup.target_class, setup.adversarial_class) == (drawn.target_class, drawn.adversarial_class)
        assert setup.target == drawn.target_ordinal
    assert len({(setup.target_class, setup.target) for setup in hundred.setups}) == 100


@pytest.fixture
def cifar(monkeypatch) -> DataSet:
    """Ten balanced classes in a made-up order, which the list is told to accept."""
    published = replace(read_list("witches-brew-10"), train_labels_sha256="", test_labels_sha256="")
    monkeypatch.setattr(module, "read_list", lambda name: published)
    order = torch.randperm(50_000, generator=torch.Generator().manual_seed(0))
    train, test = blank("train", order % 10, 10), blank("test", order[:10_000].argsort() % 10, 10)
    return DataSet("cifar10", train, test, (0.5,), (0.2,))


def test_on_the_complete_data_the_published_rows_are_used(cifar):
    found = draw("witches-brew-10", cifar, 0.01)
    assert [scenario.name for scenario in found] == [f"witches-brew-10/{key}" for key, *_ in KEYS]
    for scenario, (key, _, _, ordinal) in zip(found, KEYS, strict=True):
        check_scenario(scenario, cifar)
        assert scenario.poison_ids_from == "published"
        assert len(scenario.poison_ids) == 500
        labels = cifar.test.labels.tolist()
        before = labels[: scenario.targets[0]].count(scenario.target_class)
        assert before == int(ordinal)  # an obvious count: so many images of the class stand before the target
        rows = [row for row, label in enumerate(cifar.train.labels.tolist()) if label == scenario.adversarial_class]
        assert scenario.poison_ids == tuple(rows[i] for i in published_draws(int(key), 500).poison_ordinals)
    assert draw("witches-brew-10", cifar, 0.01, seed=4) == found  # nothing of it is ours to draw


def test_otherwise_the_same_targets_get_poisons_by_our_own_seed(cifar):
    whole = draw("witches-brew-10", cifar, 0.01)
    for other in (
        draw("witches-brew-10", part(cifar, 100), 0.01),
        draw("witches-brew-10", cifar, 0.005),
        draw("witches-brew-10", cifar, 0.01, threat="third-party"),
    ):
        for one, two in zip(whole, other, strict=True):
            assert two.poison_ids_from == "drawn"
            assert (one.name, one.targets, one.target_class) == (two.name, two.targets, two.target_class)
            assert one.adversarial_class == two.adversarial_class
    few = part(cifar, 100)
    for scenario in draw("witches-brew-10", few, 0.01):
        check_scenario(scenario, few)
        assert len(scenario.poison_ids) == 10
    assert draw("witches-brew-10", few, 0.01) == draw("witches-brew-10", few, 0.01, seed=3)
    assert draw("witches-brew-10", few, 0.01)[0].poison_ids != draw("witches-brew-10", few, 0.01, seed=4)[0].poison_ids


def test_one_key_is_the_same_scenario_alone(cifar):
    few = part(cifar, 50)
    assert draw("witches-brew-10:2111100000", few, 0.02) == draw("witches-brew-10", few, 0.02)[4:5]
    assert len(draw("witches-brew-10:2111100000", few, 0.02, count=20)) == 1
    assert draw("witches-brew-10", few, 0.02, count=2) == draw("witches-brew-10", few, 0.02)[:2]
    with refused("MTH-0306", "2111111111"):
        draw("witches-brew-10:1", few, 0.02)
    with refused("MTH-0308", "10 scenarios", "11"):
        draw("witches-brew-10", few, 0.02, count=11)


def test_ten_balanced_classes_in_another_order_are_not_cifar10():
    labels = torch.arange(50_000) % 10
    data = DataSet("mine", blank("train", labels, 10), blank("test", labels[:10_000], 10), (0.5,), (0.2,))
    with refused("MTH-0307", "mine", "test labels", "order"):
        draw("witches-brew-10", data, 0.01)


def real_cifar() -> DataSet:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = SHARED / "cifar10"
    if not folder.is_dir():
        pytest.skip("CIFAR-10 is not there (MITHRIDATE_DATA)")
    splits = []
    for name in ("train", "test"):
        labels = parquet.read_table(folder / f"{name}.parquet", columns=["label"]).column("label").to_pylist()
        splits.append(blank(f"cifar10 {name}", torch.tensor(labels), 10))
    return DataSet("cifar10", splits[0], splits[1], (0.5,), (0.2,))


def test_the_lists_fit_the_real_cifar10():
    data = real_cifar()
    for name, budget in (("witches-brew-10", 0.01), ("toxic-c10-scratch", 0.01), ("toxic-c10-transfer", 0.0005)):
        for scenario in draw(name, data, budget):
            check_scenario(scenario, data)
            assert scenario.poison_ids_from == "published"
    shuffled = replace(data, train=blank("train", data.train.labels.flip(0), 10))
    with refused("MTH-0307", "training labels"):
        draw("witches-brew-10", shuffled, 0.01)


# The poisoning benchmark


@pytest.mark.parametrize("name", TOXIC)
def test_a_benchmark_list_on_its_data(name):
    published = read_list(name)
    data = of_list(published)
    budget = published.poisons / published.train_rows
    found = draw(name, data, budget)
    assert len(found) == 100
    for scenario, setup in zip(found, published.setups, strict=True):
        check_scenario(scenario, data)
        assert scenario.poison_ids_from == "published"
        assert set(scenario.poison_ids) == set(setup.base_ids)
    sizes = {index: len(scenario.poison_ids) for index, scenario in enumerate(found)}
    short = {78: 24, 84: 24} if name == "toxic-c10-transfer" else {}
    assert sizes == dict.fromkeys(range(100), published.poisons) | short
    targets = {scenario.targets for scenario in found}
    assert len(targets) == (99 if name == "toxic-c10-scratch" else 100)


def test_the_two_published_duplicates_are_kept_in_the_file():
    setups = read_list("toxic-c10-transfer").setups
    doubled = {s.key: row for s in setups for row in s.base_ids if s.base_ids.count(row) == 2}
    assert doubled == {"78": 5259, "84": 46420}


@pytest.mark.parametrize("name, first", [("toxic-c10-scratch", (7, 7762, 3)), ("toxic-c10-transfer", (4, 9139, 7))])
def test_the_first_setup_is_the_documented_one(name, first):
    setup = read_list(name).setups[0]
    assert (setup.target_class, setup.target, setup.adversarial_class) == first


@pytest.mark.parametrize("name", TOXIC)
def test_the_shipped_lists_equal_the_published_files(name):
    path = SHARED / "poison-benchmark" / f"{TOXIC[name]}.json"
    if not path.is_file():
        pytest.skip("the published setups are not there (MITHRIDATE_DATA)")
    shipped = [
        {
            "target class": s.target_class,
            "target index": s.target,
            "base class": s.adversarial_class,
            "base indices": list(s.base_ids),
        }
        for s in read_list(name).setups
    ]
    assert shipped == json.loads(path.read_text())


def test_on_a_part_targets_and_classes_stay_and_poisons_are_drawn():
    data = of_list(read_list("toxic-c10-scratch"))
    few = part(data, 60)
    whole, drawn = draw("toxic-c10-scratch", data, 0.01), draw("toxic-c10-scratch", few, 0.01)
    for one, two in zip(whole, drawn, strict=True):
        check_scenario(two, few)
        assert (one.poison_ids_from, two.poison_ids_from) == ("published", "drawn")
        assert (one.name, one.targets, one.adversarial_class) == (two.name, two.targets, two.adversarial_class)
        assert len(two.poison_ids) == len(few.train) // 100


def test_benchmark_lists_refuse_what_they_do_not_fit():
    name = "toxic-c10-scratch"
    data = of_list(read_list(name))
    cut = replace(data, train=blank("train", data.train.labels[:30_000], 10))
    with refused("MTH-0307", "30,000 training rows", "50,000"):
        draw(name, cut, 0.01)
    with refused("MTH-0307", "9,999 test rows"):
        draw(name, replace(data, test=blank("test", data.test.labels[:-1], 10)), 0.01)
    with refused("MTH-0307", "10 classes instead of 200"):
        draw("toxic-tiny-scratch", data, 0.01)
    other = data.test.labels.clone()
    other[7762] = 6
    with refused("MTH-0307", "test row 7762 has label 6 instead of 7"):
        draw(name, replace(data, test=blank("test", other, 10)), 0.01)
    other = data.train.labels.clone()
    other[read_list(name).setups[0].base_ids[3]] = 5
    with refused("MTH-0307", "poison rows of setup"):
        draw(name, replace(data, train=blank("train", other, 10)), 0.01)


def test_the_lists_are_small_and_complete():
    folder = Path(module.__file__).parent / "scenario_lists"
    assert sorted(path.stem for path in folder.iterdir()) == sorted(LIST_NAMES)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 700_000
    for name in LIST_NAMES:
        found = read_list(name)
        assert found.name == name and found.source
        assert len({setup.key for setup in found.setups}) == len(found.setups)
        assert all(setup.target_class != setup.adversarial_class for setup in found.setups)
