"""The aggregation functions of byzfl and flwr, without the packages around them.

Their packages import torchvision and a gRPC stack that the functions do not use, so the modules of the functions are
loaded alone. They are looked for where Python looks, and in build/peers.
"""

import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).parent.parent / "build" / "peers"
Work = Callable[[torch.Tensor], object]
MOST_SUBSETS = 3000
"""Above, byzfl's enumeration of subsets takes minutes."""


def _package(name: str, folder: Path) -> None:
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


@cache
def folder_of(name: str) -> Path | None:
    """Return where a peer is installed, if it is."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def byzfl(f: int, n: int) -> dict[str, Work]:
    """Return byzfl's rules and pre-aggregators by our names, or nothing if it is not installed."""
    folder = folder_of("byzfl")
    if folder is None:
        return {}
    _package("byzfl", folder)
    rules = importlib.import_module("byzfl.aggregators")
    found: dict[str, Work] = {
        "mean": rules.Average(),
        "median": rules.Median(),
        "trimmed-mean": rules.TrMean(f=f),
        "rfa": rules.GeometricMedian(nu=0.1, T=3),
        "krum": rules.Krum(f=f),
        "multi-krum": rules.MultiKrum(f=f),
        "centered-clipping": rules.CenteredClipping(L=1, tau=10.0),
        "monna": rules.MoNNA(f=f, idx=0),
        "meamed": rules.Meamed(f=f),
        "caf": rules.CAF(f=f),
        "nnm": rules.NNM(f=f),
        "bucketing": rules.Bucketing(s=2),
        "clipping": lambda rows: rules.Clipping(c=2.0)(rows.clone()),  # it writes to its input
        "arc": lambda rows: rules.ARC(f=f)(rows.clone()),
        "nnm > krum": lambda rows: rules.Krum(f=f)(rules.NNM(f=f)(rows)),
        "nnm > trimmed-mean": lambda rows: rules.TrMean(f=f)(rules.NNM(f=f)(rows)),
    }
    if math.comb(n, f) <= MOST_SUBSETS:
        found |= {"mda": rules.MDA(f=f), "smea": rules.SMEA(f=f)}
    return found


def flwr(f: int, n: int) -> dict[str, Work]:
    """Return flwr's rules by our names, or nothing if it is not installed."""
    folder = folder_of("flwr")
    if folder is None:
        return {}
    for name in ("flwr", "flwr.server", "flwr.server.strategy"):
        _package(name, folder.parent / name.replace(".", "/"))
    common, proxy = types.ModuleType("flwr.common"), types.ModuleType("flwr.server.client_proxy")
    vars(common).update(FitRes=object, NDArray=object, NDArrays=list, parameters_to_ndarrays=None)
    vars(proxy).update(ClientProxy=object)
    sys.modules |= {"flwr.common": common, "flwr.server.client_proxy": proxy}
    rules = importlib.import_module("flwr.server.strategy.aggregate")

    def results(rows: torch.Tensor) -> list[tuple[list[object], int]]:
        return [([row.numpy()], 1) for row in rows]

    return {
        "mean": lambda rows: rules.aggregate(results(rows)),
        "median": lambda rows: rules.aggregate_median(results(rows)),
        "trimmed-mean": lambda rows: rules.aggregate_trimmed_avg(results(rows), f / n),
        "krum": lambda rows: rules.aggregate_krum(results(rows), f, 0),
        "multi-krum": lambda rows: rules.aggregate_krum(results(rows), f, n - f - 2),
        "bulyan": lambda rows: rules.aggregate_bulyan(results(rows), f, rules.aggregate_krum, to_keep=0),
    }
