"""`scan`: a trained network and its training data in; a table of suspects out.

suspects = scan(model, examples)
print(suspects.statement)
suspects.write(Path("suspects.parquet"))
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from mithridate.core.errors import Misuse
from mithridate.core.methods import instantiate
from mithridate.core.pool import Tell, silent
from mithridate.data.examples import Examples
from mithridate.detection._base import AbstractDetector, finite_or_refuse
from mithridate.detection.extract import extract
from mithridate.detection.names import DEFAULT, DETECTORS
from mithridate.detection.suspects import Suspects, ids_of, named, ranking
from mithridate.detection.transplant import transplant
from mithridate.detection.votes import Ballot, Jury, vote

Detectors = Sequence[str] | Mapping[str, Mapping[str, object]]


def scan(
    model: nn.Module,
    data: Examples,
    detectors: Detectors | None = None,
    *,
    jury: Jury | None = None,
    seed: int = 0,
    batch: int = 512,
    progress: Tell = silent,
) -> Suspects:
    """Score every training example with several detectors and let them vote on who is suspected.

    Args:
        model: Images in [0, 1] in, logits out; it ends in an `nn.Linear`. It is not changed.
        data: The training data with the labels under which they were trained on.
        detectors: Names, or names with options (`{"strip": {"overlays": 100}}`); the default looks for a second
            population inside a class, by its tail, and then by what it has in common (`transplant`).
        jury: How scores become suspects.
        seed: All randomness derives from it.
        batch: Images that go through the network at once.
        progress: Told `done`, the share of all work, and `detector`.

    Returns:
        A table of all rows. Where nothing stands out it says so, and no row is suspected.

    Raises:
        Misuse: Unknown names or options; MTH-0860 to MTH-0868 for data or a model that cannot be scanned.
    """
    jury = jury or Jury()
    named_detectors = make_detectors(detectors)
    classes = sorted(set(data.labels.tolist()))
    if len(classes) == 1:
        raise Misuse(
            "MTH-0868",
            f"all {len(data)} rows of {data.name} are of the class {data.classes[classes[0]]!r}; a poisoned class is "
            "found by comparing classes",
            hint="scan the whole training set",
        )
    parts = len(named_detectors) + (2 if detectors is None else 1)
    given = extract(model, data, batch=batch, progress=_part(progress, 0, parts, "features"))
    scores = {}
    for number, (name, detector) in enumerate(named_detectors.items(), start=1):
        given = replace(given, progress=_part(progress, number, parts, name))
        with DETECTORS.blaming(name):
            scores[name] = finite_or_refuse(name, detector.scores(given, seed=seed))
    ballot = vote(scores, given.labels, jury)
    moved: dict[int, float] = {}
    if detectors is None and ballot.decided and int(ballot.suspect.sum()) < jury.most:
        given = replace(given, progress=_part(progress, parts - 1, parts, "transplant"))
        trials = transplant(given, scores, seed=seed)
        accused = set(given.labels[ballot.suspect].tolist())
        if trials.convicted is not None and accused <= {trials.convicted}:
            ballot = _convicted(ballot, trials.suspects(scores))
            accused = set()
        moved = {} if accused else dict(trials.moved)
    _part(progress, parts - 1, parts, list(named_detectors)[-1])({"done": 1.0})
    if ballot.skipped:
        text = f"{data.name}: {named(ballot.skipped, data.classes)} have too few rows to be judged"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return Suspects(
        rows=ids_of(data),
        labels=given.labels,
        classes=data.classes,
        scores=scores,
        ranks={name: ranking(deviations) for name, deviations in ballot.deviations.items()},
        votes=ballot.votes,
        rank=ballot.rank,
        suspect=ballot.suspect,
        anomalies=dict(ballot.anomalies),
        gate=jury.gate_for(len(scores)),
        decided=ballot.decided,
        moved=moved,
        data=data.fingerprint,
        model=weights_hash(model),
        settings={
            "detectors": {name: asdict(detector) for name, detector in named_detectors.items()},
            "jury": asdict(jury),
            "seed": seed,
        },
    )


def _convicted(ballot: Ballot, chosen: Int64[Tensor, " s"]) -> Ballot:
    """Return the ballot with these rows as its suspects, in their order in front of all others."""
    suspect = torch.zeros_like(ballot.suspect)
    suspect[chosen] = True
    before = ballot.rank.argsort()
    rank = torch.empty_like(ballot.rank)
    rank[torch.cat([chosen, before[~suspect[before]]])] = torch.arange(1, len(rank) + 1)
    return replace(ballot, suspect=suspect, rank=rank)


def make_detectors(detectors: Detectors | None) -> dict[str, AbstractDetector]:
    """Return detectors by name with their options; None for the default ones.

    Raises:
        Misuse: MTH-0101 for an unknown name, MTH-0110 or MTH-0123 for a wrong option, MTH-0864 for none or one twice.
    """
    chosen: Detectors = DEFAULT if detectors is None else detectors
    if isinstance(chosen, str):
        chosen = (chosen,)
    names = list(chosen)
    if not names or len(set(names)) < len(names):
        raise Misuse(
            "MTH-0864",
            f"detectors are different names, at least one; got {', '.join(names) or 'none'}",
            hint=f"for example {', '.join(DEFAULT)}",
        )
    options: Mapping[str, Mapping[str, object]] = chosen if isinstance(chosen, Mapping) else {}
    made = {}
    for name in names:
        detector = instantiate(DETECTORS.load(name), name, options.get(name, {}))
        if not isinstance(detector, AbstractDetector):
            raise Misuse("MTH-0102", f"the plugin of detector {name!r} is a {type(detector).__name__}, not a detector")
        made[name] = detector
    return made


def weights_hash(model: nn.Module) -> str:
    """Return the sha256, in hex, of every parameter and buffer with its name, type and shape."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _part(progress: Tell, number: int, parts: int, name: str) -> Tell:
    """Return a progress that fills one of `parts` equal parts."""
    return lambda word: progress({**word, "done": (number + word.get("done", 0.0)) / parts, "detector": name})
