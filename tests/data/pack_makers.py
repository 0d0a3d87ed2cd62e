"""Small data sets and poison packs for the tests of packs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from mithridate.core.units import Pixels
from mithridate.data.examples import Examples
from mithridate.data.packs import PoisonPack, make_pack
from mithridate.data.scenarios import Scenario
from mithridate.data.sources import DataSet
from mithridate.data.stores import ResidentStore

CLASSES = ("cat", "dög", "<b>bird</b>", "[red]ship")


def split(name: str, count: int, shape: tuple[int, int, int], seed: int) -> Examples:
    random = np.random.default_rng(seed)
    pixels = torch.from_numpy(random.integers(0, 256, (count, *shape), dtype=np.uint8))
    return Examples(name, ResidentStore(pixels), torch.arange(count) % len(CLASSES), CLASSES)


def make_data(shape: tuple[int, int, int] = (3, 4, 5), *, train: int = 40, test: int = 12, seed: int = 0) -> DataSet:
    c = shape[0]
    splits = split("toy train", train, shape, seed), split("toy test", test, shape, seed + 1)
    return DataSet("toy", *splits, (0.5,) * c, (0.2,) * c)


def make_scenario(data: DataSet, *, poisons: int = 4, levels: int = 16, seed: int = 0) -> Scenario:
    """Test row 5 (class 1) shall be seen as class 2; the poisons are rows of class 2 in a random order."""
    rows = data.train.rows_of_class(2).numpy()
    order = np.random.default_rng(seed).permutation(rows)[:poisons]
    return Scenario(
        name="toy/0",
        targets=(5,),
        target_class=1,
        adversarial_class=2,
        poison_ids=tuple(int(row) for row in order),
        epsilon=Pixels(levels / 255),
    )


def perturbed(data: DataSet, scenario: Scenario, *, levels: int, seed: int = 0) -> torch.Tensor:
    """The scenario's base images, changed by up to `levels` steps; where there is room, one pixel by exactly that."""
    base = data.train.images.gather(torch.tensor(scenario.poison_ids, dtype=torch.int64)).to(torch.int64)
    change = torch.from_numpy(np.random.default_rng(seed).integers(-levels, levels + 1, tuple(base.shape)))
    if base.numel():
        first = int(base.view(-1)[0])
        change.view(-1)[0] = levels if first + levels <= 255 else -levels
    return (base + change).clamp(0, 255).to(torch.uint8)


def make(data: DataSet, *, poisons: int = 4, levels: int = 16, seed: int = 0, dirty: bool = False) -> PoisonPack:
    scenario = make_scenario(data, poisons=poisons, levels=levels, seed=seed)
    images = perturbed(data, scenario, levels=levels, seed=seed)
    labels = torch.zeros(poisons, dtype=torch.int64) if dirty else None
    return make_pack(
        data.train,
        scenario,
        images,
        attack="noise",
        config={"steps": 3, "law": ("sign", 0.5)},
        seed=seed,
        record={"loss": [1.0, 0.1, float("nan")], "note": 'text with "quotes" and \u2603'},
        labels=labels,
    )


@dataclass(frozen=True)
class Case:
    """A data set and a pack for it, of any small shape, radius, size and labels; built in the test, not in the draw."""

    shape: tuple[int, int, int]
    poisons: int
    levels: int
    seed: int
    dirty: bool

    def build(self) -> tuple[DataSet, PoisonPack]:
        data = make_data(self.shape, seed=self.seed)
        return data, make(data, poisons=self.poisons, levels=self.levels, seed=self.seed, dirty=self.dirty)


cases = st.builds(
    Case,
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5)),
    poisons=st.integers(0, 6),
    levels=st.integers(0, 255),
    seed=st.integers(0, 99),
    dirty=st.booleans(),
)


def tree(path: Path) -> dict[str, bytes]:
    """All files under a path, by relative name."""
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}
