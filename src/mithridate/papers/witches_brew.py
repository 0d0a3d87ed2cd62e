"""Witches' Brew: clean-label poisons by gradient matching turn chosen test images of networks trained from scratch.

Paper    Geiping, Fowl, Huang, Czaja, Taylor, Moeller, Goldstein (ICLR 2021), arXiv 2009.02276.
"""

from typing import Any, ClassVar

from mithridate.audit.config import AuditConfig
from mithridate.papers._base import AbstractAuditPaper, Document, Scale, accuracy_row, cell, success_row

CIFAR10_CPU: dict[str, Any] = {
    "data": {"source": "cifar10", "per_class": 2000},
    "model": "mlp-w256",
    "recipe": "fast-light",
    "recipe_options": {"epochs": 20, "batch": 64, "lr": 0.02},
    "scenarios": {"source": "witches-brew-100", "count": 60},
    "budget": 0.01,
    "epsilon": "16/255",
    "attacks": [
        {
            "name": "witches-brew",
            "options": {"num_surrogates": 2, "restarts": 1, "steps": 200, "precision": "bf16"},
        },
    ],
    "precision": "bf16",
    "victims": 1,
    "controls": "undefended",
}
"""Within an hour on two cores: the paper's targets and fifty more of its law, its budget and epsilon, part of the data.

Targets are what the test counts, so the hour goes to targets and not to several victims of each. A perceptron, because
sixty targets with two hundred poisons each fit into the hour only with it; residual networks fit with fewer images and
fewer targets, too few to tell (docs/results.md).
"""


class WitchesBrew(AbstractAuditPaper):
    """Gradient matching against victims that train from scratch with augmentation."""

    name: ClassVar[str] = "witches-brew"
    title: ClassVar[str] = "Witches' Brew: industrial scale data poisoning via gradient matching"
    citation: ClassVar[str] = (
        "J. Geiping, L. Fowl, W. R. Huang, W. Czaja, G. Taylor, M. Moeller, T. Goldstein. ICLR 2021. arXiv 2009.02276"
    )
    claim: ClassVar[str] = (
        "Changing 1 % of the training images within a small l-infinity ball, without touching labels, makes a network "
        "that is trained from scratch with augmentation take a chosen test image for a chosen wrong class, while "
        "random noise of the same size does not, and clean accuracy is kept."
    )
    published: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (
            "success on the poisoning benchmark, ResNet-18 from scratch, epsilon 8/255, 1 %",
            "45 %",
            "leaderboard in the README of the poisoning benchmark, 100 setups",
        ),
        ("the same, MobileNetV2", "25 %", "the same leaderboard"),
        ("the same, VGG11", "8 %", "the same leaderboard"),
    )

    def config(self, scale: Scale) -> AuditConfig:
        """Return the audit: digits, a part of CIFAR-10, or the paper's setting."""
        if scale == "smoke":
            return AuditConfig.model_validate(
                {
                    "data": {"source": "digits"},
                    "scenarios": {"count": 20},
                    "attacks": [{"name": "witches-brew", "options": dict(DIGITS_OPTIONS)}],
                    "victims": 2,
                }
            )
        if scale == "cpu":
            return AuditConfig.model_validate(CIFAR10_CPU)
        return AuditConfig.model_validate(
            {
                "data": {"source": "cifar10"},
                "model": "resnet18",
                "recipe": "paper-wb40",
                "scenarios": {"source": "witches-brew-10", "count": 10},
                "budget": 0.01,
                "epsilon": "16/255",
                "attacks": ["witches-brew"],
                "victims": 8,
            }
        )

    def departures(self, scale: Scale) -> tuple[str, ...]:
        """Return the differences from the paper."""
        always = (
            "poisons are judged after export to 8-bit pixels that keep the bound exactly; the reference judges floats",
            "restarts are compared by their re-evaluated matching loss, not by the one before the last step",
            "noise of the same size and unmodified data are run beside the attack",
        )
        if scale == "paper":
            return (*always, "CIFAR-10 images went through JPEG compression, which costs a little accuracy")
        if scale == "cpu":
            return (*always, *CPU_DEPARTURES)
        return (*always, *SMOKE_DEPARTURES)

    def measured(self, document: Document) -> list[list[str]]:
        """Return success and accuracy with both controls."""
        return [
            success_row(document, "witches-brew", "none", "success of Witches' Brew"),
            success_row(document, "noise", "none", "success of noise of the same size"),
            success_row(document, "none", "none", "the adversarial class without an attack"),
            accuracy_row(document, "witches-brew", "none", "clean accuracy of poisoned victims"),
            accuracy_row(document, "none", "none", "clean accuracy of clean victims"),
            *[[c["what"], f"p = {c['p_value']:.2g} ({c['test']})"] for c in document["comparisons"]],
        ]

    def verdict(self, document: Document) -> Document:
        """Hold the claim to p < 0.01 against both controls and at most 1.5 points of clean accuracy."""
        poisoned, clean = cell(document, "witches-brew", "none"), cell(document, "none", "none")
        tests = [c for c in document["comparisons"] if c["test"].startswith("Fisher")]
        p_values = [c["p_value"] for c in tests if c["what"].startswith("witches-brew hits")]
        cost = 100 * (clean["clean_accuracy"] - poisoned["clean_accuracy"])
        _, rate = success_row(document, "witches-brew", "none", "")
        beats, keeps = max(p_values) < 0.01, cost <= 1.5
        held = beats and keeps
        sentence = (
            f"The claim {'holds' if held else 'did not reproduce'} at this scale: Witches' Brew hit {rate}, "
            f"p = {max(p_values):.2g} against the stronger control ({tests[0]['test']}), at {cost:.1f} points of clean "
            "accuracy."
        )
        status = "pass" if held else "fail"
        return {**document["verdict"], "status": status, "exit_code": int(not held), "sentence": sentence}


DIGITS_OPTIONS: dict[str, Any] = {"restarts": 2, "steps": 100, "step_size": 0.4, "step_unit": "epsilon"}
SMOKE_DEPARTURES = (
    "data: the embedded 8x8 digits instead of CIFAR-10; model: a perceptron with 128 hidden units",
    "budget 6 % of the set (60 % of a class) and epsilon 0.5: a check of the mechanism, not of the published budget",
    "2 restarts of 100 steps instead of 8 of 250; no augmentation; step size 0.4 epsilon",
)
CPU_DEPARTURES: tuple[str, ...] = (
    "data: the first 2,000 images of each CIFAR-10 class (20,000 of 50,000); 1 % is 200 images, drawn by our seed",
    "model: a perceptron with 256 hidden units instead of ResNet-18; everything runs in bfloat16 autocast",
    "recipe fast-light: 20 epochs of batch 64 at lr 0.02, flips and shifts of one pixel instead of four",
    "2 surrogates and 1 start of 200 steps instead of 1 surrogate and 8 starts of 250",
    "1 victim a target instead of 8, and more targets: the paper's ten keys, then the keys 0, 1, 2, ... by its law",
)

METHOD = WitchesBrew
