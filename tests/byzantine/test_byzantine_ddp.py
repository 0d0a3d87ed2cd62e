"""The communication hook on four real processes over gloo, one of them lying, against a single process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ddp_worker as worker
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from mithridate.aggregation.combine import combine
from mithridate.numerics.rng import generator
from mithridate.numerics.row_view import RowView

pytestmark = pytest.mark.slow
WORLD = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run four ranks to their end and return what they wrote."""
    place = tmp_path_factory.mktemp("ddp")
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, worker.__file__, str(place), str(rank), str(WORLD)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        said = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * WORLD, "\n".join(said)[-3000:]
    return place


def alone(name: str) -> list[torch.Tensor]:
    """Return the combined gradients of every step, as one process would have computed them."""
    rule, model, found = worker.rules()[name], worker.net(), []
    state = rule.init()
    for step in range(worker.STEPS):
        rows = []
        for rank in range(WORLD):
            model.zero_grad()
            images, labels = worker.batch(rank, step)
            cross_entropy(model(images), labels).backward()
            row = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
            rows.append(worker.lie(row) if rank == WORLD - 1 else row)
        gen = generator(worker.SEED, "ddp", step)
        vector, state = combine(RowView.of(torch.stack(rows)), rule, state=state, gen=gen)
        found.append(vector)
        sizes = [each.numel() for each in model.parameters()]
        for parameter, part in zip(model.parameters(), vector.split(sizes), strict=True):
            parameter.data.sub_(part.view_as(parameter), alpha=worker.LR)
    return found


@pytest.mark.parametrize("name", worker.rules())
def test_the_hook_equals_one_process_whatever_the_buckets(folder: Path, name: str) -> None:
    expected = alone(name)
    for rank in range(WORLD):
        written = load_file(folder / f"{rank}.safetensors")
        for cap in (0.001, 25.0):
            for step in range(worker.STEPS):
                parts = [written[f"{name}/{cap}/{step}/{number}"].flatten() for number in range(6)]
                torch.testing.assert_close(torch.cat(parts), expected[step], rtol=1e-4, atol=1e-6)


def test_all_ranks_have_the_same_bits(folder: Path) -> None:
    first = load_file(folder / "0.safetensors")
    for rank in range(1, WORLD):
        written = load_file(folder / f"{rank}.safetensors")
        assert written.keys() == first.keys()
        assert all(torch.equal(written[key], first[key]) for key in first)


def test_a_rank_that_sends_nan_is_borne_by_a_rule_and_ends_the_mean_everywhere(folder: Path) -> None:
    for rank in range(WORLD):
        words = json.loads((folder / f"{rank}.json").read_text(encoding="utf-8"))
        assert words["krum"] == "finite: True"
        assert "MTH-0524" in words["mean"] and "rows 3" in words["mean"]
