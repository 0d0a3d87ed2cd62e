"""Scan, heal and verify as a user types them, on data of which nobody says that, or how, they were poisoned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mithridate.attacks._base import AttackKit
from mithridate.attacks._trigger import AbstractTriggerAttack
from mithridate.attacks.badnets import BadNets
from mithridate.attacks.blended import Blended
from mithridate.core.units import Pixels
from mithridate.data.scenarios import scenarios
from mithridate.data.sources import load

Run = Callable[..., Any]


def written(attack: AbstractTriggerAttack | None, seed: int) -> None:
    """Write data.npz, the digits with 2 % of poison or none, and trigger.png."""
    clean = load("digits")
    train = clean.train
    if attack is not None:
        wanted = scenarios(
            "trigger:0", clean, budget=0.02, epsilon=Pixels(1.0), count=None, seed=seed, threat="other-classes"
        )[0]
        pack = attack.craft(AttackKit(data=clean, surrogates=()), wanted, seed=seed)
        train = pack.apply(train)
        assert pack.trigger is not None
        pack.trigger.save("trigger.png")
    arrays = {}
    for name, part in (("train", train), ("test", clean.test)):
        arrays[f"{name}_images"] = part.images.gather(torch.arange(len(part))).squeeze(1).numpy()
        arrays[f"{name}_labels"] = part.labels.numpy()
    np.savez("data.npz", **arrays)


def trained(run: Run) -> None:
    words = ("--data", "data.npz", "--model", "convnet3", "--recipe", "digits-cnn30")
    assert run("train", *words, "-o", "model", "--json").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("attack", [BadNets(), Blended()], ids=["badnets", "blended"])
def test_a_poisoned_model_is_found_out_healed_and_verified(run: Run, attack: AbstractTriggerAttack) -> None:
    run("list", "--json")
    written(attack, seed=1)
    trained(run)
    scanned = run("scan", "model", "data.npz", "-o", "suspects.parquet", "--json")
    assert scanned.code == 0
    assert scanned.document["suspects"] > 0, scanned.document["statement"]

    healed = run("heal", "model", "--suspects", "suspects.parquet", "--reference", "data.npz", "-o", "healed", "--json")
    assert healed.code in (0, 3), healed.document["verdict"]  # it has only reconstructed what the trigger may be
    assert healed.document["trigger"] != "given"
    words = ("--trigger", "trigger.png", "--target", "0", "--json")
    outcome = run("verify-heal", "model", "healed", *words)
    assert outcome.code == 0, outcome.document["verdict"]
    assert outcome.document["attack_success_rate_before"] > 0.7
    unhealed = run("verify-heal", "model", "model", *words)
    assert unhealed.code == 1, unhealed.document["verdict"]


@pytest.mark.slow
def test_a_clean_model_is_left_alone(run: Run) -> None:
    run("list", "--json")
    written(None, seed=1)
    trained(run)
    before = Path("model/model.safetensors").read_bytes()
    scanned = run("scan", "model", "data.npz", "-o", "suspects.parquet", "--json")
    assert (scanned.code, scanned.document["suspects"]) == (0, 0)
    assert scanned.document["statement"].startswith("Nothing suspicious")
    healed = run("heal", "model", "--suspects", "suspects.parquet", "--reference", "data.npz", "-o", "healed", "--json")
    assert healed.code == 0
    assert healed.document["left_alone"]
    assert healed.document["verdict"]["sentence"].startswith("Left alone")
    assert Path("model/model.safetensors").read_bytes() == before
    assert not Path("healed/model.safetensors").exists()
