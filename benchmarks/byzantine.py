"""What Byzantine tolerance costs on loopback: steps per second of every protocol beside plain averaging.

    python benchmarks/byzantine.py                               digits, 9,610 parameters, 8 workers, 5 servers
    python benchmarks/byzantine.py --steps 20 --workers 4 --only vanilla ssmw-median      smaller

Every row is a run of real processes with mutual TLS; nobody misbehaves, since what is asked is the price of the
insurance. A step's time is split into gradient, communication and aggregation as the reports split it
(`mithridate.byzantine.summary`). Rows are run in turn, `--repeats` times over, so that what else the machine does falls
on all of them; the median run of each is shown, its slowdown against the median vanilla run, and the extremes.
Garfield (DSN 2021) reports in its abstract that communication costs more than aggregation; the shape is what is
compared, not the figures of another machine.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from mithridate.byzantine.cluster import ClusterConfig
from mithridate.byzantine.local import run_local
from mithridate.byzantine.making import Wish, make_cluster
from mithridate.byzantine.summary import split_of


def arms(args: argparse.Namespace) -> dict[str, ClusterConfig]:
    """Return the cluster of each row."""
    training = {"steps": args.steps, "evaluate_every": args.steps, "batch": args.batch}
    common = {"training": training, "model": args.model, "data": {"source": args.data, "per_class": args.per_class}}
    common |= {"checkpoint_every": 1_000_000, "seed": args.seed}

    def one(**values: Any) -> ClusterConfig:
        return make_cluster(Wish(servers=1, workers=args.workers, values=common | values))

    def many(**values: Any) -> ClusterConfig:
        return make_cluster(Wish(servers=args.servers, workers=args.workers, values=common | values))

    def peers(**values: Any) -> ClusterConfig:
        return make_cluster(Wish(servers=0, workers=args.peers, values=common | values))

    crashes = max(1, (args.workers - 1) // 3)
    found = {
        "vanilla": one(variant="vanilla"),
        "crash-tolerant": one(variant="crash-tolerant", workers={"f": crashes}),
        "ssmw-median": one(rule="median"),
        "ssmw-multi-krum": one(rule="multi-krum"),
        "ssmw-mda": one(rule="mda"),
        "ssmw-multi-bulyan": one(rule="multi-bulyan"),
        "msmw-vanilla": many(variant="vanilla"),
        "msmw-mda": many(rule="mda"),
        "msmw-mda-gather-5": many(rule="mda", gather_every=5),
        "p2p-vanilla": peers(variant="vanilla"),
    }
    fixed = {"gradient_rounds": 1, "model_rounds": 1}
    found["p2p-mda-plain"] = peers(agreement={"kind": "mda", "broadcast": "plain", **fixed}, peers={"f": 1})
    found["p2p-icwtm-consistent"] = peers(
        agreement={"kind": "icwtm", "broadcast": "consistent", **fixed}, peers={"f": 1}
    )
    found["p2p-rb-tm-reliable"] = peers(agreement={"kind": "rb-tm", "broadcast": "reliable", **fixed}, peers={"f": 1})
    return found


def measure(cluster: ClusterConfig) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(prefix="byzantine-bench-"))
    try:
        finished = run_local(cluster, folder)
        split = split_of(finished.cluster, finished.records)
        received = sum(
            peer["received_bytes"] for record in finished.records.values() for peer in record["peers"].values()
        )
        return split | {"accuracy": finished.curve[-1][1], "megabytes": received / 1e6 / cluster.training.steps}
    finally:
        shutil.rmtree(folder)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--peers", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--per-class", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=None, help="names of rows")
    parser.add_argument("--json", type=Path, default=None, help="write all runs there")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    wanted = {name: cluster for name, cluster in arms(args).items() if args.only is None or name in args.only}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in wanted}
    for _ in range(args.repeats):
        for name, cluster in wanted.items():
            runs[name].append(measure(cluster))
    base = median(run["steps_per_second"] for run in runs["vanilla"]) if "vanilla" in runs else None
    head = f"{'row':22} {'steps/s':>8} {'extremes':>15} {'slower':>7} {'gradient':>9} {'communic.':>9} {'aggreg.':>8}"
    print(f"{head} {'MB/step':>8} {'accuracy':>8}")
    for name, found in runs.items():
        rates = sorted(run["steps_per_second"] for run in found)
        run = sorted(found, key=lambda run: run["steps_per_second"])[len(found) // 2]
        parts = [run[part] for part in ("gradient", "communication", "aggregation")]
        shares = " ".join(
            f"{100 * part / sum(parts):{width}.0f} %" for part, width in zip(parts, (7, 7, 6), strict=True)
        )
        slower = "-" if base is None else f"{100 * (base / run['steps_per_second'] - 1):.0f} %"
        extremes = f"{rates[0]:.1f} to {rates[-1]:.1f}"
        line = f"{name:22} {run['steps_per_second']:8.1f} {extremes:>15} {slower:>7} {shares}"
        print(f"{line} {run['megabytes']:8.2f} {100 * run['accuracy']:6.1f} %")
    if args.json is not None:
        args.json.write_text(json.dumps({"arguments": {**vars(args), "json": None}, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
