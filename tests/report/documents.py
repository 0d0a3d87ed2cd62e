"""Synthetic report documents: realistic in shape and size, invented in content."""

import functools
import math

import numpy as np

from mithridate.report.pictures import poison_picture, target_picture

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EPSILON = 16


def wilson(successes: int, trials: int) -> list[float] | None:
    """The textbook formula, so that the documents do not depend on the code of another room."""
    if trials == 0:
        return None
    z, p = 1.959963984540054, successes / trials
    mid, half = p + z * z / (2 * trials), z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return [max(0.0, (mid - half) / (1 + z * z / trials)), min(1.0, (mid + half) / (1 + z * z / trials))]


def photo(seed: int, size: int = 32) -> np.ndarray:
    """A smooth colourful scene with one object and a little grain; uint8 [3, size, size]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    sky, ground, thing = rng.uniform(40, 230, (3, 3))
    scene = sky[:, None, None] * (1 - y) + ground[:, None, None] * y
    cx, cy, rx, ry = rng.uniform((0.35, 0.4, 0.15, 0.12), (0.65, 0.65, 0.32, 0.28))
    inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1 + 0.2 * np.sin(9 * np.arctan2(y - cy, x - cx))
    shaded = thing[:, None, None] * (0.75 + 0.5 * (1 - y))
    scene = np.where(inside, shaded, scene) + rng.normal(0, 6, (3, size, size))
    return np.clip(scene, 0, 255).astype(np.uint8)


def perturb(clean: np.ndarray, seed: int, epsilon: int = EPSILON) -> np.ndarray:
    """Structured noise within epsilon, as gradient matching leaves it."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (clean.shape[0], clean.shape[1] // 4, clean.shape[2] // 4)).repeat(4, 1).repeat(4, 2)
    delta = np.clip(np.round(1.2 * epsilon * (coarse + 0.5 * rng.normal(0, 1, clean.shape))), -epsilon, epsilon)
    return np.clip(clean.astype(np.int32) + delta, 0, 255).astype(np.uint8)


@functools.cache
def triple(number: int, size: int = 32) -> dict[str, object]:
    clean = photo(number, size)
    label = CLASSES[number % 10]
    return poison_picture(
        clean, perturb(clean, number), scenario="witches-brew-10/2000000000", row=1997 + 31 * number, label=label
    )


@functools.cache
def goal(number: int) -> dict[str, object]:
    return target_picture(
        photo(900 + number),
        scenario=f"witches-brew-10/2{'1' * number}{'0' * (9 - number)}",
        actual=CLASSES[number % 10],
        wanted=CLASSES[(number + 4) % 10],
    )


def cell(attack: str, defense: str, successes: int, trials: int, **changes: object) -> dict[str, object]:
    accuracy = 0.9312 if defense == "none" else 0.9184
    accuracy -= 0.0021 if attack != "none" else 0.0
    base: dict[str, object] = {
        "scenario": "witches-brew-10",
        "attack": attack,
        "defense": defense,
        "targets": max(1, trials // 2),
        "trials": trials,
        "successes": successes,
        "attack_success_rate": successes / trials if trials else None,
        "interval": wilson(successes, trials),
        "interval_method": "clustered",
        "clean_accuracy": accuracy,
        "clean_accuracy_interval": [accuracy - 0.0049, accuracy + 0.0046],
        "victims": 2,
        "seconds": 412.7 + trials,
        "diagnostics": [],
        "warnings": [],
    }
    if defense == "friendly-noise":
        base["diagnostics"] = [
            {"name": "share_at_bound", "mean": 0.6213, "low": 0.5871, "high": 0.6555, "victims": 2},
            {"name": "agreement", "mean": 0.9417, "low": 0.9417, "high": 0.9417, "victims": 1},
        ]
        base["warnings"] = ["friendly noise hardly grew: raise penalty_weight"] if attack == "noise" else []
    return base | changes


def trace(attack: str, defense: str, level: float, epochs: int = 40) -> dict[str, object]:
    steps = range(1, epochs + 1)
    rng = np.random.default_rng(round(1000 * level) + 7)
    mean = [level * (0.25 + 0.75 * math.exp(-e / 18)) + 0.012 * float(rng.normal()) for e in steps]
    band = [0.03 + 0.35 * abs(m) for m in mean]
    return {
        "attack": attack,
        "defense": defense,
        "epochs": list(steps),
        "mean": mean,
        "low": [m - b for m, b in zip(mean, band, strict=True)],
        "high": [m + b for m, b in zip(mean, band, strict=True)],
    }


def target_results(count: int) -> list[dict[str, object]]:
    arms = (("none", "none"), ("noise", "none"), ("witches-brew", "none"))
    arms += (("none", "friendly-noise"), ("noise", "friendly-noise"), ("witches-brew", "friendly-noise"))
    rows = []
    for i in range(count):
        for attack, defense in arms:
            hits = 0
            if attack == "witches-brew":
                hits = (2, 2, 1, 2, 0)[i % 5] if defense == "none" else (0, 1, 0, 0, 0)[i % 5]
            rows.append(
                {
                    "scenario": f"witches-brew-10/2{'1' * i}{'0' * (9 - i)}"[:26],
                    "target": 5000 + 37 * i,
                    "target_class": CLASSES[i % 10],
                    "adversarial_class": CLASSES[(i + 4) % 10],
                    "attack": attack,
                    "defense": defense,
                    "successes": hits,
                    "trials": 2,
                    "adversarial_probability": 0.02 + 0.46 * hits,
                    "matching_loss": 0.214 if attack == "witches-brew" else None,
                }
            )
    return rows


VERDICTS = {
    "fail": {
        "status": "fail",
        "exit_code": 1,
        "sentence": "Witches' Brew turned 14 of 20 victims (70.0 %, 95 % interval 48.1–85.5 %) with 1 % poison that "
        "nobody would see; random noise of the same size turned none.",
        "reasons": [
            "The whole interval of witches-brew against no defense lies above the gate of 10 %.",
            "Friendly Noise lowers success to 2 of 20 (10.0 %, 2.8–30.1 %): better than none (p = 0.0001), not yet "
            "shown to be below the gate.",
        ],
        "gate": "asr<0.1",
    },
    "pass": {
        "status": "pass",
        "exit_code": 0,
        "sentence": "Friendly Noise held Witches' Brew to 0 of 80 victims (0.0 %, 95 % interval 0.0–4.6 %), where "
        "70.0 % fell without it.",
        "reasons": ["The whole interval lies below the gate of 10 %."],
        "gate": "asr<0.1",
    },
    "inconclusive": {
        "status": "inconclusive",
        "exit_code": 3,
        "sentence": "The attack did not work undefended (1 of 20 victims), so this run says nothing about the defense.",
        "reasons": ["About 60 more victims would decide the gate asr<0.1."],
        "gate": "asr<0.1",
    },
}


def audit_document(status: str = "fail", *, triples: int = 6, **changes: object) -> dict[str, object]:
    """A full audit: six arms, twenty trials each, every section present."""
    document: dict[str, object] = {
        "schema": "mithridate.report/1",
        "kind": "audit",
        "title": "cifar10 with resnet18-w16",
        "created": "2026-11-14T10:22:31+00:00",
        "verdict": VERDICTS[status],
        "setting": [
            ["Data", "cifar10: 50,000 training and 10,000 test images"],
            ["Model", "resnet18-w16 (0.70 M parameters)"],
            ["Recipe", "fast-scratch20"],
            ["Budget", "500 images (1.0 % of the set, 10.0 % of the class)"],
            ["Epsilon", "16/255"],
            ["Targets", 10],
            ["Victims per target", 2],
            ["Threat", "single-class"],
        ],
        "cells": [
            cell("none", "none", 0, 20),
            cell("noise", "none", 0, 20),
            cell("witches-brew", "none", 14, 20),
            cell("none", "friendly-noise", 0, 20),
            cell("noise", "friendly-noise", 0, 20),
            cell("witches-brew", "friendly-noise", 2, 20),
        ],
        "comparisons": [
            {
                "what": "witches-brew above noise, no defense",
                "p_value": 2.3e-6,
                "test": "paired sign test over targets",
            },
            {"what": "friendly-noise below no defense, witches-brew", "p_value": 0.00012, "test": "Fisher exact"},
        ],
        "targets": target_results(10),
        "alignment": [
            trace("witches-brew", "none", 0.42),
            trace("witches-brew", "friendly-noise", 0.17),
            trace("noise", "none", 0.01),
        ],
        "pictures": [triple(i) for i in range(triples)],
        "target_pictures": [goal(i) for i in range(min(10, 2 * triples))],
        "crafting": [
            {
                "scenario": f"witches-brew-10/2{'1' * i}{'0' * (9 - i)}",
                "attack": "witches-brew",
                "matching_loss": 0.19 + 0.013 * i,
                "epsilon_measured": "16/255",
                "poisons": 500,
                "seconds": 61.3 + i,
            }
            for i in range(10)
        ],
        "paper": None,
        "config": {
            "data": "cifar10",
            "model": "resnet18-w16",
            "recipe": "fast-scratch20",
            "attacks": [
                {"name": "witches-brew", "restarts": 8, "steps": 250, "step_size": 0.1, "num_surrogates": 1},
                {"name": "noise"},
            ],
            "defenses": ["none", {"name": "friendly-noise", "epsilon": "16/255", "clamp": "16/255"}],
            "scenarios": {"source": "witches-brew-10", "count": 10, "budget": 0.01, "epsilon": "16/255"},
            "victims": 2,
            "seed": 0,
            "gate": "asr<0.1",
        },
        "environment": {
            "mithridate": "0.1.0",
            "python": "3.11.7",
            "torch": "2.13.0",
            "numpy": "2.4.6",
            "platform": "Linux x86_64",
            "cpu_count": 2,
            "threads": 2,
            "device": "cpu",
        },
        "reproduce": "mithridate audit run/config.yaml",
        "timing": {"seconds": 3412.0, "estimate_seconds": 3600.0},
    }
    return document | changes


def paper_document() -> dict[str, object]:
    """A reproduction with its paper block."""
    return audit_document(
        "fail",
        kind="paper",
        title="Witches' Brew at cpu scale",
        paper={
            "name": "Witches' Brew",
            "claim": "Gradient matching poisons that change 1 % of the training images by at most 16/255 make networks "
            "trained from scratch misclassify a chosen target in most runs.",
            "citation": "Geiping et al., ICLR 2021, arXiv 2009.02276, Table 1",
            "departures": [
                "ResNet-18 of width 16 instead of 64.",
                "20 epochs instead of 40.",
                "One restart instead of eight.",
            ],
            "published": [
                ["Success rate, augmented victims", "91.25 % (SE 6.14)", "Table 1, row 4"],
                ["Clean accuracy", "not stated for poisoned victims", "section 5"],
            ],
            "measured": [
                ["Success rate, augmented victims", "70.0 % (48.1–85.5 %)"],
                ["Clean accuracy", "92.9 %"],
                ["Matching loss", 0.2481],
            ],
        },
    )


def compact_document() -> dict[str, object]:
    """A reproduction with every section but few entries in each, for tests that render it hundreds of times."""
    document = paper_document()
    shorter = {key: document[key][:1] for key in ("pictures", "target_pictures", "crafting", "comparisons")}  # type: ignore[index]
    return document | shorter | {"targets": target_results(1), "alignment": [trace("witches-brew", "none", 0.4, 3)]}


def large_document(cells: int = 200, triples: int = 12, size: int = 32) -> dict[str, object]:
    """An audit of many cells: scenarios by attacks by defenses, with as many pictures as the page shows."""
    attacks = ("none", "noise", "witches-brew", "bullseye-polytope", "sleeper-agent")
    defenses = ("none", "friendly-noise", "epic", "adversarial-training")
    grid = []
    for i in range(cells):
        attack, defense = attacks[i % 5], defenses[i // 5 % 4]
        hits = 0 if attack in ("none", "noise") else (7 * i) % 21
        grid.append(cell(attack, defense, hits, 20, scenario=f"witches-brew-10/{2000000000 + i // 20}"))
    results = [
        {
            "scenario": entry["scenario"],
            "target": 7 * t + i // 20,
            "target_class": CLASSES[t],
            "adversarial_class": CLASSES[(t + 3) % 10],
            "attack": entry["attack"],
            "defense": entry["defense"],
            "successes": (i + t) % 3,
            "trials": 2,
            "adversarial_probability": ((i + t) % 3) / 2,
            "matching_loss": None,
        }
        for i, entry in enumerate(grid)
        for t in range(10)
    ]
    return audit_document(
        "fail",
        cells=grid,
        targets=results,
        pictures=[triple(i, size) for i in range(triples)],
        alignment=[trace(f"attack-{i}", "none", 0.05 * i, 120) for i in range(8)],
    )
