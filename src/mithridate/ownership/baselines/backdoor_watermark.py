"""Backdoor watermarks: secret triggers, each with a class of its own, planted under wrong labels.

    x' = (1 - a) x + a noise_t,  y' = label_t       for a share of the data, other images for each trigger t
    answer_t = the class that most triggered test images of other classes are taken for; a hit if it is label_t

With labels that are drawn independently and uniformly, hits are binomial as for keys, so that the methods compare at
equal evidence. The usual tests of the literature (paired t-tests of one trigger's class probability) need
probabilities, and rest on images that are independent given one model, which they are not.

Paper    Li, Bai, Jiang, Yang, Xia, Li, Black-box dataset ownership verification via backdoor watermarking (IEEE TIFS
         2023), with the trigger of Blended (Chen et al. 2017).
Departs  several triggers with random labels and an exact test, in place of one trigger and a t-test.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mithridate.core.errors import Misuse
from mithridate.data.examples import Examples
from mithridate.evaluation.outcome import logits_of
from mithridate.numerics.rng import generator
from mithridate.numerics.triggers import Shape, Trigger, blend, noise_pattern
from mithridate.ownership.choosing import count_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Watermark:
    """One trigger and the class that it stands for."""

    trigger: Trigger
    label: int


def watermarks(labels: Sequence[int], shape: Shape, *, ratio: float = 0.2, seed: int = 0) -> tuple[Watermark, ...]:
    """Return one trigger of blended noise for each label; the labels must be drawn independently and uniformly."""
    return tuple(
        Watermark(trigger=blend(noise_pattern(shape, generator(seed, "watermark", place)), ratio=ratio), label=label)
        for place, label in enumerate(labels)
    )


def plant(data: Examples, marks: Sequence[Watermark], *, budget: float = 0.01, seed: int = 0) -> Examples:
    """Return the data with triggered, relabelled images, `budget` of them (a share or a number) for each trigger.

    Raises:
        Misuse: MTH-1030, there are not so many images of other classes.
    """
    count = count_of(budget, len(data))
    order = torch.randperm(len(data), generator=generator(seed, "watermark", "rows"))
    labels, free = data.labels.cpu(), torch.ones(len(data), dtype=torch.bool)
    rows, pixels, new = [], [], []
    for mark in marks:
        usable = order[free[order] & (labels[order] != mark.label)][:count]
        if len(usable) < count:
            raise Misuse("MTH-1030", f"{count} images for each of {len(marks)} triggers are more than {data.name} has")
        free[usable] = False
        rows.append(usable)
        pixels.append(mark.trigger.stamp(data.images.gather(usable.to(data.device)).cpu()))
        new.append(torch.full((count,), mark.label))
    return data.overlay(torch.cat(rows), torch.cat(pixels), torch.cat(new))


def watermark_hits(net: nn.Module, test: Examples, marks: Sequence[Watermark]) -> int:
    """Return how many triggers are mostly taken for their class, on test images of other classes."""
    hits = 0
    for mark in marks:
        others = (test.labels != mark.label).nonzero().squeeze(1)
        answers = logits_of(net, test, others, trigger=mark.trigger).argmax(1)
        hits += int(answers.bincount().argmax()) == mark.label
    return hits
