"""Data Taggants: marks in a few images, and a test that models trained on them fail and others pass by chance alone.

Paper    W. Bouaziz, N. Usunier, E.-M. El-Mhamdi: Data Taggants: Dataset Ownership Verification via Harmless Targeted
         Data Poisoning (ICLR 2025), arXiv 2410.09101.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from mithridate.core.intervals import wilson
from mithridate.core.pool import Execute, Job
from mithridate.core.verdicts import Status
from mithridate.data.sources import load
from mithridate.ownership.marking import Marking
from mithridate.ownership.planning import HitTest
from mithridate.ownership.significance import binomial_tail, holm
from mithridate.papers._base import AbstractGridPaper, Document, Results, Scale
from mithridate.papers._ownership import FILTERS, Bench, Setting, Variant
from mithridate.training.contracts import Options

Records = Mapping[str, Mapping[str, Any]]
_LEVEL = Fraction(1, 100)
_CLASSES = 10
"""Of digits and of CIFAR-10."""
_HARMLESS = 0.015

_MLP = Variant(name="another seed", model="mlp", recipe="digits-mlp40", options=Options())
_LIGHT = Options(epochs=15, batch=64, precision="bf16")
_RESNET = Variant(name="another seed", model="resnet9-w16", recipe="fast-light", options=_LIGHT)
_FULL = Variant(name="another seed", model="resnet18", recipe="paper-wb40", options=Options(precision="bf16"))
_SETTINGS: dict[Scale, Setting] = {
    "smoke": Setting(
        source="digits",
        own=_MLP,
        surrogates=1,
        keys=10,
        side=8,
        topk=1,
        marks={
            "10 %, epsilon 0.3": Marking(budget=14, epsilon=0.3, steps=150, views=1),
            "10 %, epsilon 0.2": Marking(budget=14, epsilon=0.2, steps=150, views=1),
            "2 %, epsilon 0.2": Marking(budget=3, epsilon=0.2, steps=150, views=1),
        },
        variants=(
            _MLP,
            Variant(name="a wider network", model="mlp-w256", recipe="digits-mlp40", options=Options()),
            Variant(name="with shifts", model="mlp", recipe="digits-mlp40", options=Options(augment=True)),
        ),
    ),
    "cpu": Setting(
        source="cifar10",
        per_class=1000,
        own=_RESNET,
        surrogates=2,
        keys=10,
        side=8,
        topk=1,
        marks={
            "1 %, epsilon 16/255": Marking(budget=10, steps=100, views=1, precision="bf16"),
            "5 %, epsilon 16/255": Marking(budget=50, steps=100, views=1, precision="bf16"),
        },
        variants=(
            _RESNET,
            Variant(name="another network", model="resnet18-w8", recipe="fast-light", options=_LIGHT),
            Variant(name="another augmentation", model="resnet9-w16", recipe="paper-wb40", options=_LIGHT),
        ),
    ),
    "paper": Setting(
        source="cifar10",
        own=_FULL,
        surrogates=1,
        keys=20,
        side=8,
        topk=1,
        marks={
            "1 %, epsilon 16/255": Marking(budget=25, steps=250, views=2, precision="bf16"),
            "0.1 %, epsilon 16/255": Marking(budget=2, steps=250, views=2, precision="bf16"),
        },
        variants=(
            _FULL,
            Variant(name="another network", model="vgg11", recipe="paper-wb40", options=Options(precision="bf16")),
            Variant(
                name="another augmentation",
                model="resnet18",
                recipe="bench-scratch200",
                options=Options(epochs=40, precision="bf16"),
            ),
        ),
    ),
}


class DataTaggants(AbstractGridPaper):
    """Models with and without marks in their training data, asked about secret keys."""

    name: ClassVar[str] = "data-taggants"
    title: ClassVar[str] = "Data Taggants: dataset ownership verification"
    citation: ClassVar[str] = "W. Bouaziz, N. Usunier, E.-M. El-Mhamdi. ICLR 2025. arXiv 2410.09101"
    claim: ClassVar[str] = (
        "Small changes of a small share of the images, under their own labels, make every model that is trained on "
        "the data answer secret keys better than chance, whatever its network and augmentation, so that labels alone "
        "show it; models trained on other data are not accused, and accuracy does not suffer."
    )
    published: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("innocent models accused at 1 %", "none", "abstract and reviews of the paper, ImageNet1k"),
    )

    def jobs(self, scale: Scale) -> Sequence[Job]:
        """Return surrogates, marks, users with and without them, and filters."""
        own = _SETTINGS[scale]
        surrogates = tuple(f"surrogate/{number}" for number in range(own.surrogates))
        users = range(len(own.variants))
        jobs = [*map(Job, surrogates), *(Job(f"innocent/{number}") for number in users)]
        for strength in map(_slug, own.marks):
            jobs.append(Job(f"mark/{strength}", surrogates))
            jobs += [Job(f"guilty/{strength}/{number}", (f"mark/{strength}",)) for number in users]
            jobs.append(Job(f"filter/{strength}", (f"guilty/{strength}/0",)))
        return jobs

    def worker(self, scale: Scale, *, seed: int, device: str) -> Execute:
        """Refuse: networks are kept in the run folder; see `worker_in`."""
        raise NotImplementedError

    def worker_in(self, folder: Path, scale: Scale, *, seed: int, device: str) -> Execute:
        """Return what trains, marks and asks."""
        own = _SETTINGS[scale]
        data = load(own.source, per_class=own.per_class)
        marks = {_slug(name): marking for name, marking in own.marks.items()}
        return Bench(setting=own, marks=marks, data=data, folder=folder, seed=seed, device=device)

    def setting(self, scale: Scale) -> list[tuple[str, str | int | float]]:
        """Return the setting of a scale."""
        own = _SETTINGS[scale]
        return [
            ("data", own.source if own.per_class is None else f"{own.source}, {own.per_class} images of each class"),
            ("surrogates", f"{own.surrogates} of {own.own.model}, {own.own.recipe}{_epochs(own.own)}"),
            ("keys", f"{own.keys}, noise of {own.side} x {own.side}; the first {own.topk} of the answers count"),
            ("marks", "; ".join(own.marks)),
            ("users", "; ".join(f"{user.name}: {user.model}, {user.recipe}{_epochs(user)}" for user in own.variants)),
        ]

    def departures(self, scale: Scale) -> tuple[str, ...]:
        """Return the differences from the paper."""
        own = _SETTINGS[scale]
        marking = next(iter(own.marks.values()))
        always = (
            "labels of keys are drawn with replacement, so that the binomial is exact; the released code draws them "
            "without",
            "keys are 8-bit images; changes begin inside the ball and are judged as 8-bit images",
            f"{marking.steps} steps, views a step: {marking.views}, no visual penalty (released: 250, 2, LPIPS)",
            "one secret for each scale: users are asked about the same keys, so their p-values are dependent (Holm)",
        )
        if scale == "paper":
            return (*always, "data: CIFAR-10 in place of ImageNet1k; residual and VGG networks in place of DeiT")
        if scale == "smoke":
            return (
                *always,
                "data: the embedded 8x8 digits; images of 64 pixels need larger changes and a larger share",
                "networks: perceptrons; no augmentation but for one user",
            )
        return (
            *always,
            "data: 10,000 images of CIFAR-10 in place of ImageNet1k; 1 % and 5 % of them marked instead of 0.1 %; "
            "10 classes, so that a hit by chance has probability 0.1 instead of 0.01 (k = 10 of 1,000)",
            "networks: ResNet-9 of width 16 and ResNet-18 of width 8, 15 epochs, in bfloat16 autocast",
        )

    def results(self, scale: Scale, records: Records) -> Results:
        """Hold every user's p-value, and what the marks cost, against the claim."""
        own = _SETTINGS[scale]
        tables, measured, verdicts = [], [], []
        for name in own.marks:
            rows = _rows(own, records, name)
            guilty, innocent = _p_values(own, records, name)
            cost = _cost(own, records, name)
            verdicts.append((name, guilty, innocent, cost))
            tables.append(_table(own, records, name, rows))
            hits = [int(records[f"guilty/{_slug(name)}/{number}"]["hits"]) for number in range(len(own.variants))]
            rate = wilson(sum(hits), own.keys * len(hits))
            measured += [
                (
                    f"{name}: keys answered by guilty models",
                    f"{sum(hits)} of {own.keys * len(hits)} ({100 * rate.low:.0f}-{100 * rate.high:.0f} %)",
                ),
                (f"{name}: guilty models shown at 1 %", f"{sum(p <= _LEVEL for p in guilty)} of {len(guilty)}"),
                (f"{name}: clean accuracy change", f"{-100 * cost:+.2f} points"),
            ]
        tables.append(_filters(own, records))
        innocent = verdicts[0][2]
        measured.append(("innocent models accused at 1 %", f"{sum(p <= _LEVEL for p in innocent)} of {len(innocent)}"))
        return _judged(own, tuple(tables), tuple(measured), verdicts)


def _judged(
    own: Setting,
    tables: tuple[Document, ...],
    measured: tuple[tuple[str, str], ...],
    verdicts: Sequence[tuple[str, Sequence[Fraction], Sequence[Fraction], float]],
) -> Results:
    name, guilty, innocent, cost = verdicts[0]
    shown = sum(p <= _LEVEL for p in holm(list(guilty)))
    accused = sum(p <= _LEVEL for p in holm(list(innocent)))
    harmless = cost <= _HARMLESS
    held = shown == len(guilty) and not accused and harmless
    needed = HitTest(topk=own.topk, classes=_CLASSES, alpha=float(_LEVEL)).hits_needed(own.keys)
    sentence = (
        f"The claim {'holds' if held else 'did not reproduce'} at this scale: at {name}, {shown} of {len(guilty)} "
        f"models that were trained on the marks are shown to be (Holm, 1 %), {accused} of {len(innocent)} others are "
        "accused."
    )
    reasons = (
        f"{needed} of {own.keys} hits are needed at 1 %",
        f"clean accuracy changes by {-100 * cost:+.2f} points",
        *(
            f"{other}: {sum(p <= _LEVEL for p in holm(list(p_values)))} of {len(p_values)} shown"
            for other, p_values, _, _ in verdicts[1:]
        ),
    )
    status = Status.PASS if held else Status.FAIL
    return Results(status=status, sentence=sentence, reasons=reasons, tables=tables, measured=measured)


def _slug(name: str) -> str:
    return name.replace(" %", "pc").replace(", ", "-").replace(" ", "").replace("/", "over")


def _epochs(variant: Variant) -> str:
    return "" if variant.options.epochs is None else f", {variant.options.epochs} epochs"


def _p(own: Setting, record: Mapping[str, Any]) -> Fraction:
    return binomial_tail(int(record["hits"]), keys=own.keys, topk=own.topk, classes=_CLASSES)


def _p_values(own: Setting, records: Records, name: str) -> tuple[list[Fraction], list[Fraction]]:
    users = range(len(own.variants))
    return (
        [_p(own, records[f"guilty/{_slug(name)}/{number}"]) for number in users],
        [_p(own, records[f"innocent/{number}"]) for number in users],
    )


def _share(record: Mapping[str, Any]) -> float:
    return float(record["correct"]) / float(record["tested"])


def _cost(own: Setting, records: Records, name: str) -> float:
    return fmean(
        _share(records[f"innocent/{number}"]) - _share(records[f"guilty/{_slug(name)}/{number}"])
        for number in range(len(own.variants))
    )


def _rows(own: Setting, records: Records, name: str) -> list[list[str]]:
    rows = []
    for kind, path in (("marked", f"guilty/{_slug(name)}/"), ("clean", "innocent/")):
        for number, user in enumerate(own.variants):
            record = records[f"{path}{number}"]
            p, rate = _p(own, record), wilson(int(record["correct"]), int(record["tested"]))
            rows.append(
                [
                    user.name,
                    kind,
                    f"{record['hits']} of {own.keys}",
                    f"{float(p):.2g}",
                    f"{p.numerator}/{p.denominator}",
                    f"{100 * rate.point:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f})",
                ]
            )
    return rows


def _table(own: Setting, records: Records, name: str, rows: list[list[str]]) -> Document:
    made = records[f"mark/{_slug(name)}"]
    return {
        "title": f"Marks: {name}",
        "columns": ["user", "trained on", "hits", "p-value", "exactly", "clean accuracy (95 % interval)"],
        "rows": rows,
        "note": (
            f"{made['images']} images marked ({100 * made['share']:.2f} %), PSNR {made['psnr']:.1f} dB, largest change "
            f"{255 * made['largest']:.0f}/255; cosine with the keys' gradients {made['cosine']:.2f}, "
            f"{made['clean_cosine']:.2f} before. p-values are of one model each; the keys are the same for all."
        ),
    }


def _filters(own: Setting, records: Records) -> Document:
    rows = []
    for name in own.marks:
        record = records[f"filter/{_slug(name)}"]
        for detector in FILTERS:
            found = wilson(int(record["found"][detector]), int(record["marked"]))
            rows.append(
                [
                    name,
                    detector,
                    f"{record['found'][detector]} of {record['marked']}",
                    f"{100 * found.point:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})",
                    f"{100 * record['marked'] / record['images']:.1f} %",
                ]
            )
        rows.append(
            [
                name,
                "votes of the three",
                f"{record['suspected_marked']} of {record['marked']}",
                f"{record['suspected']} images suspected",
                "-",
            ]
        )
    return {
        "title": "Do filters find the marked images?",
        "columns": ["marks", "filter", "marked images among the first", "share found (95 % interval)", "by chance"],
        "rows": rows,
        "note": "As many images are taken from each ranking as are marked; features of the first guilty model.",
    }


METHOD = DataTaggants
