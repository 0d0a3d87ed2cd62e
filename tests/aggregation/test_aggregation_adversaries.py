"""Row adversaries: hand vectors, and the law that each attack is named for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mithridate.aggregation.adversaries._base import AbstractAdversary
from mithridate.aggregation.adversaries._search import damage, line_search
from mithridate.aggregation.adversaries.alie import quantile
from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse
from mithridate.core.registry import Registry

ADVERSARIES = Registry("mithridate.aggregation.adversaries", "adversary", None)
NAMES = (
    *("none", "sign-flip-own", "sign-flip-mean", "ipm", "empire", "foe", "alie", "opt-alie", "opt-ipm", "mimic"),
    *(
        "label-flip",
        "gaussian",
        "inf",
        "nan",
        "bulyan-attack",
        "anti-cge",
        "min-max",
        "random-model",
        "reverse",
        "drop",
    ),
)
HONEST = torch.tensor([[1.0, 0.2], [2.1, 1.3], [0.4, 2.2], [3.5, 2.9], [1.2, 1.1], [2.0, 2.4]])


def build(name: str, **options: Any) -> AbstractAdversary:
    return ADVERSARIES.load(name)(**options)


def forge(name: str, honest: Tensor = HONEST, f: int = 1, *, rule: Any = None, seed: int = 0, **options: Any) -> Tensor:
    rows, _ = build(name, **options).forge(honest, f, rule=rule, gen=torch.Generator().manual_seed(seed), state=None)
    return rows


def median(rows: Tensor) -> Tensor:
    return rows.quantile(0.5, dim=0)


def mean(rows: Tensor) -> Tensor:
    return rows.mean(0)


def wide(h: int = 9, d: int = 40, seed: int = 0) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(h, d, generator=gen) + 0.5


def test_all_attacks_of_the_specification_are_there() -> None:
    assert set(NAMES) == set(ADVERSARIES.names())


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("alie", {"z": 1.5}, (0.067824, 0.191103)),
        ("alie", {"z": 1.5, "sign": 1}, (3.332176, 3.175564)),
        ("empire", {"factor": 1.1}, (-0.17, -0.168333)),
        ("foe", {}, (-0.17, -0.168333)),
        ("ipm", {"eps": 0.5}, (-0.85, -0.841667)),
        ("sign-flip-mean", {}, (-1.7, -1.683333)),
        ("bulyan-attack", {"t": 4.0}, (1.7, 5.683333)),
        ("bulyan-attack", {"t": 4.0, "coordinate": "all"}, (5.7, 5.683333)),
    ],
)
def test_hand_vectors(name: str, options: dict[str, Any], expected: tuple[float, float]) -> None:
    rows = forge(name, f=3, **options)
    torch.testing.assert_close(rows, torch.tensor([expected] * 3), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("n", "f", "z"),
    [
        *((50, 12, 0.3360), (25, 5, 0.2533), (25, 11, 1.0676), (20, 8, 0.6745), (11, 5, 0.9674)),
        *((51, 24, 1.4461), (10, 2, 0.0)),
    ],
)
def test_the_quantile_of_alie(n: int, f: int, z: float) -> None:
    assert quantile(n, f) == pytest.approx(z, abs=5e-5)
    honest = wide(n - f)
    off = forge("alie", honest, f) - honest.mean(0)
    torch.testing.assert_close(off.abs(), z * honest.std(0).expand(f, -1), rtol=2e-4, atol=1e-5)


def test_alie_has_no_quantile_for_a_majority() -> None:
    with pytest.raises(Misuse, match=r"MTH-0551.*4 of 8") as error:
        forge("alie", wide(4), 4)
    assert error.value.code in CODES


def test_every_copy_of_an_inner_product_attack_points_against_the_mean() -> None:
    honest = wide()
    for name in ("ipm", "foe", "empire", "sign-flip-mean"):
        cosine = torch.cosine_similarity(forge(name, honest, 2), honest.mean(0).expand(2, -1))
        torch.testing.assert_close(cosine, torch.full((2,), -1.0))


def test_attacks_on_the_own_row() -> None:
    own = wide(2)
    assert torch.equal(forge("none", own, 2), own)
    assert torch.equal(forge("label-flip", own, 2), own)
    assert torch.equal(forge("sign-flip-own", own, 2, scale=3.0), -3 * own)
    assert torch.equal(forge("sign-flip-own", own, 2, scale=0.0), torch.zeros_like(own))
    assert torch.equal(forge("reverse", own, 2), -100 * own)
    dropped = forge("drop", wide(2, 20_000), 2)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(dropped[dropped != 0], wide(2, 20_000)[dropped != 0])


def test_broken_workers() -> None:
    assert torch.isposinf(forge("inf", f=2)).all()
    assert torch.isnan(forge("nan", f=2)).all()
    noise = forge("gaussian", wide(2, 20_000), 2, mean=3.0, deviation=2.0)
    assert float(noise.mean()) == pytest.approx(3.0, abs=0.05)
    assert float(noise.std()) == pytest.approx(2.0, abs=0.05)
    uniform = forge("random-model", wide(2, 20_000), 2)
    assert 0 <= float(uniform.min()) < 0.01
    assert 0.99 < float(uniform.max()) < 1


def test_labels_are_mirrored_by_label_flip_alone() -> None:
    labels = torch.tensor([0, 3, 9])
    for name in NAMES:
        expected = [9, 6, 0] if name == "label-flip" else [0, 3, 9]
        assert build(name).tamper(labels, 10).tolist() == expected


def test_anti_cge_makes_norm_elimination_drop_the_longest_honest_rows() -> None:
    f, honest = 3, wide(10) * torch.linspace(0.5, 3.0, 10)[torch.randperm(10)][:, None]
    rows = torch.cat([honest, forge("anti-cge", honest, f)])
    kept = rows.norm(dim=1).argsort()[: len(rows) - f]
    assert set(range(10, 13)) <= set(kept.tolist())
    shortest = honest[honest.norm(dim=1).argsort()[: 10 - f]]
    torch.testing.assert_close(
        torch.cosine_similarity(rows[10:], shortest.sum(0).expand(f, -1)), torch.full((f,), -1.0)
    )  # each kept honest row once


def test_anti_cge_needs_a_majority() -> None:
    with pytest.raises(Misuse, match=r"MTH-0551.*2 and 2"):
        forge("anti-cge", wide(2), 2)


def test_min_max_goes_exactly_as_far_as_honest_rows_are_apart() -> None:
    honest = wide(7, 30, seed=4)
    vector = forge("min-max", honest, 1)[0]
    farthest, diameter = (honest - vector).norm(dim=1).max(), torch.cdist(honest, honest).max()
    torch.testing.assert_close(farthest, diameter, rtol=1e-5, atol=0)
    beyond = honest.mean(0) + 1.001 * (vector - honest.mean(0))
    assert float((honest - beyond).norm(dim=1).max()) > float(diameter)
    off = (honest.mean(0) - vector) / honest.std(0)
    torch.testing.assert_close(off, off[:1].expand_as(off), rtol=1e-4, atol=1e-5)


def test_mimic_copies_the_worker_that_differs_in_the_direction_of_largest_variance() -> None:
    """Rows differ along one axis only; worker 5 is farthest out on one side, worker 2 on the other."""
    gen = torch.Generator().manual_seed(0)
    axis = torch.zeros(12)
    axis[3] = 1.0
    along = torch.tensor([0.0, 0.2, -5.0, 0.1, -0.3, 5.0])
    adversary, state, chosen = build("mimic", warmup=20), None, []
    for step in range(30):
        honest = along[:, None] * axis + 0.01 * torch.randn(6, 12, generator=gen)
        rows, state = adversary.forge(honest, 2, rule=None, gen=torch.Generator().manual_seed(step), state=state)
        (match,) = [i for i in range(6) if torch.equal(rows[0], honest[i])]
        assert torch.equal(rows[0], rows[1])
        chosen.append(match)
    assert chosen[-1] in (2, 5)
    assert len(set(chosen[20:])) == 1
    assert abs(float(state["direction"][3])) > 0.99


def test_mimic_freezes_its_target_after_the_warm_up() -> None:
    adversary, state = build("mimic", warmup=0), None
    rows, state = adversary.forge(HONEST, 1, rule=None, gen=torch.Generator().manual_seed(0), state=state)
    target = int(state["target"])
    for _ in range(3):
        moved = HONEST.flip(0)  # the argmax moves with its row, the frozen index does not
        rows, state = adversary.forge(moved, 1, rule=None, gen=torch.Generator(), state=state)
        assert torch.equal(rows[0], moved[target])


def test_mimic_of_a_given_worker() -> None:
    assert torch.equal(forge("mimic", f=2, target=3), HONEST[3].expand(2, -1))
    with pytest.raises(Misuse, match=r"MTH-0552.*worker 6.*0 to 5"):
        forge("mimic", target=6)


OPTIMISED: dict[str, list[dict[str, Any]]] = {
    "opt-alie": [{"name": "alie", "z": z} for z in (0.5, 1.0, 1.5)],
    "opt-ipm": [{"name": "ipm", "eps": eps} for eps in (0.1, 0.5, 1.0, 2.0)],
    "bulyan-attack": [{"name": "bulyan-attack", "t": t} for t in (0.5, 1.0, 2.0)],
}


@pytest.mark.parametrize("rule", [median, mean])
@pytest.mark.parametrize("name", OPTIMISED)
def test_the_search_hurts_at_least_as_much_as_fixed_strengths(name: str, rule: Callable[[Tensor], Tensor]) -> None:
    honest, f = wide(9), 4

    def hurt(rows: Tensor) -> float:
        return float((rule(torch.cat([honest, rows])) - honest.mean(0)).norm())

    found = hurt(forge(name, honest, f, rule=rule))
    for options in OPTIMISED[name]:
        fixed = dict(options)
        assert found >= 0.999 * hurt(forge(fixed.pop("name"), honest, f, **fixed))


@pytest.mark.parametrize("name", OPTIMISED)
def test_a_search_without_a_rule_is_refused(name: str) -> None:
    with pytest.raises(Misuse, match="MTH-0550") as error:
        forge(name, wide())
    assert name in str(error.value)
    assert error.value.code in CODES


def test_the_line_search_finds_a_peak_on_either_side_of_its_steps() -> None:
    for peak in (0.0, 0.3, 0.9, 1.1, 2.7, 5.9, 40.0):
        found = line_search(lambda x, peak=peak: -((x - peak) ** 2), budget=40)
        assert found == pytest.approx(peak, abs=0.05 + 0.02 * peak)


def test_the_line_search_spends_its_budget_and_ignores_nan() -> None:
    places: list[float] = []

    def objective(x: float) -> float:
        places.append(x)
        return float("nan") if x > 1.5 else x

    assert line_search(objective, budget=16) <= 1.5
    assert len(places) == 16
    assert min(places) >= 0


def test_damage_is_measured_with_the_hostile_rows_last() -> None:
    seen: list[Tensor] = []

    def rule(rows: Tensor) -> Tensor:
        seen.append(rows.clone())
        return rows[0]

    at = damage(rule, HONEST, 2, lambda x: torch.full((2,), x))
    assert at(7.0) == pytest.approx(float((HONEST[0] - HONEST.mean(0)).square().sum()), rel=1e-6)
    assert torch.equal(seen[0], torch.cat([HONEST, torch.full((2, 2), 7.0)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("f", [0, 1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_every_adversary_returns_f_fresh_rows_and_changes_nothing(name: str, f: int, dtype: torch.dtype) -> None:
    adversary = build(name)
    honest = wide(7 if adversary.knowledge == "honest rows" else f).to(dtype)
    before = honest.clone()

    def rule(rows: Tensor) -> Tensor:
        return rows.mean(0)

    results = []
    for _ in range(2):
        rows, _ = adversary.forge(honest, f, rule=rule, gen=torch.Generator().manual_seed(5), state=None)
        assert rows.shape == (f, 40)
        assert rows.dtype == dtype
        results.append(rows)
    assert torch.equal(honest, before)
    assert torch.equal(results[0].nan_to_num(7.0), results[1].nan_to_num(7.0))


def test_one_honest_row_has_no_spread() -> None:
    """The deviation of one sample is zero and not NaN."""
    honest = wide(1)
    for name in ("alie", "min-max"):
        options = {"z": 1.5} if name == "alie" else {}
        torch.testing.assert_close(forge(name, honest, 1, **options), honest)
