"""Friendly Noise: training on prediction-preserving noise and random noise defuses clean-label poisons.

Paper    Liu, Yang, Mirzasoleiman, Friendly Noise against Adversarial Noise (NeurIPS 2022), arXiv 2208.10224.
"""

from typing import Any, ClassVar

from mithridate.audit.config import AuditConfig
from mithridate.papers._base import AbstractAuditPaper, Document, Scale, accuracy_row, cell, success_row
from mithridate.papers.witches_brew import CIFAR10_CPU, CPU_DEPARTURES, DIGITS_OPTIONS, SMOKE_DEPARTURES


class FriendlyNoise(AbstractAuditPaper):
    """The defense against gradient matching, at the epsilon of the attack."""

    name: ClassVar[str] = "friendly-noise"
    title: ClassVar[str] = "Friendly Noise against adversarial noise"
    citation: ClassVar[str] = "T. Y. Liu, Y. Yang, B. Mirzasoleiman. NeurIPS 2022. arXiv 2208.10224"
    claim: ClassVar[str] = (
        "Adding to every training image the largest noise that leaves a network's prediction alone, together with "
        "fresh random noise, makes gradient-matched poisons fail at a small cost in clean accuracy."
    )
    published: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("success of gradient matching, epsilon 16/255, undefended", "75 %", "paper, table 3, 20 poisoned sets"),
        ("the same under Friendly Noise with Bernoulli noise", "0 %", "paper, table 3; error given as 5.59 %"),
        ("clean accuracy, undefended", "93.50 %", "paper, table 3"),
        ("clean accuracy under Friendly Noise", "91.52 %", "paper, table 3"),
    )

    def config(self, scale: Scale) -> AuditConfig:
        """Return the audit: Witches' Brew with and without the defense."""
        if scale == "smoke":
            return AuditConfig.model_validate(
                {
                    "data": {"source": "digits"},
                    "scenarios": {"count": 12},
                    "attacks": [{"name": "witches-brew", "options": dict(DIGITS_OPTIONS)}],
                    "defenses": [{"name": "friendly-noise", "options": {"zeta": 0.5, "mu": 0.5, "start": 0.25}}],
                    "victims": 2,
                }
            )
        if scale == "cpu":
            targets = {"source": "witches-brew-100", "count": 30}  # with the defense, the hour has room for half
            return AuditConfig.model_validate(
                {**CIFAR10_CPU, "scenarios": targets, "defenses": ["friendly-noise"]},
            )
        options: dict[str, Any] = {"epochs": 80}
        return AuditConfig.model_validate(
            {
                "data": {"source": "cifar10"},
                "model": "resnet18",
                "recipe": "paper-wb40",
                "recipe_options": options,
                "scenarios": {"source": "toxic-c10-scratch", "count": 20},
                "budget": 0.01,
                "epsilon": "16/255",
                "attacks": ["witches-brew"],
                "defenses": ["friendly-noise"],
            }
        )

    def departures(self, scale: Scale) -> tuple[str, ...]:
        """Return the differences from the paper."""
        always = (
            "the objective is that of the authors' code (KL from clean to noisy prediction, mean square as reward)",
            "lambda is 10, of the paper's search grid; with the code's default of 1 the noise hardly grows",
            "poisons are crafted here; the paper used published poison sets",
        )
        if scale == "paper":
            return (*always, "CIFAR-10 images went through JPEG compression; milestones 29/49/70 are those of the code")
        if scale == "cpu":
            return (*always, *CPU_DEPARTURES)
        return (
            *always,
            *SMOKE_DEPARTURES,
            "zeta and mu equal the attack's epsilon of 0.5, as 16/255 does in the paper",
        )

    def measured(self, document: Document) -> list[list[str]]:
        """Return success and accuracy with and without the defense."""
        return [
            success_row(document, "witches-brew", "none", "success without a defense"),
            success_row(document, "witches-brew", "friendly-noise", "success under Friendly Noise"),
            accuracy_row(document, "none", "none", "clean accuracy without a defense"),
            accuracy_row(document, "none", "friendly-noise", "clean accuracy under Friendly Noise"),
            accuracy_row(document, "witches-brew", "friendly-noise", "clean accuracy of defended poisoned victims"),
        ]

    def verdict(self, document: Document) -> Document:
        """Hold the claim to a significant drop of success (p < 0.05), if the attack worked at all."""
        before: Document = document["verdict"]
        if before["status"] == "inconclusive":
            return before
        p_value = next(
            c["p_value"]
            for c in document["comparisons"]
            if c["what"].startswith("friendly-noise saves") and c["test"].startswith("Fisher")
        )
        accuracy = [cell(document, "none", d)["clean_accuracy"] for d in ("none", "friendly-noise")]
        held = p_value < 0.05
        sentence = (
            f"The claim {'holds' if held else 'did not reproduce'} at this scale: success fell from "
            f"{success_row(document, 'witches-brew', 'none', '')[1]} to "
            f"{success_row(document, 'witches-brew', 'friendly-noise', '')[1]}, p = {p_value:.2g}, and clean accuracy "
            f"from {100 * accuracy[0]:.1f} % to {100 * accuracy[1]:.1f} %."
        )
        return {**before, "status": "pass" if held else "fail", "exit_code": 0 if held else 1, "sentence": sentence}


METHOD = FriendlyNoise
