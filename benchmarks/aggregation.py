"""Aggregation rules against byzfl, flwr, torch, and the time to copy the rows, in one process.

Every contender gets the same n x d float32 rows. In each round the copy and all contenders run once, one after another,
so that what slows the machine slows all of them; printed are the least wall time over the rounds, its ratios, and the
median. A contender whose first run took more than `--longest` seconds runs once, and is left out where ten times as
many coordinates would take longer. Peak memory is measured in a process of its own: what a second call adds to the
resident set, as a share of the rows. On a busy machine, `--clock processor` with one thread still gives fair ratios.

    python benchmarks/aggregation.py [--n 10 25 50] [--d 1e6 1e7] [--rules median krum] [--rounds 5] [--json FILE]

Peers, if wished:  python -m pip install --no-deps --target build/peers -r benchmarks/peers.txt
"""

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

import _peers
from mithridate.aggregation._base import AbstractPreAggregator
from mithridate.aggregation.aggregate import aggregate
from mithridate.aggregation.names import PRE_AGGREGATORS, RULES
from mithridate.aggregation.resilience import least_rows
from mithridate.core.errors import Misuse
from mithridate.numerics._llvm import available
from mithridate.numerics.geometry import geometry, weighted
from mithridate.numerics.rng import generator
from mithridate.numerics.row_view import RowView

Work = Callable[[torch.Tensor], object]
CHAINS = ("nnm > krum", "nnm > trimmed-mean")
FLOORS = {"trimmed-mean": 0.4, "meamed": 0.15, "nnm": 0.25, "rfa": 0.4}
"""The most of byzfl's time that is accepted; the aim is a tenth."""
PLAIN = {"median": 0.5, "krum": 1.0}
"""The most of the time of a few lines of torch that is accepted."""
COPIES = {"median": 3.0, "trimmed-mean": 3.0, "krum": 3.0}
"""The most of the copy's time that is accepted at n = 25."""


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass
class Line:
    """What one rule took for one size, in milliseconds, by contender."""

    rule: str
    n: int
    d: int
    f: int
    least: dict[str, float] = field(default_factory=dict)
    middle: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    extra_memory: float | None = None

    def ratio(self, to: str) -> float | None:
        """Return our time as a share of another contender's."""
        return self.least["ours"] / self.least[to] if to in self.least and "ours" in self.least else None


def names() -> list[str]:
    """Return every rule, pre-aggregator and chain."""
    return [*RULES.names(), *PRE_AGGREGATORS.names(), *CHAINS]


def liars(rule: str, n: int) -> int:
    """Return a fifth of the rows, or as many as the rule can stand."""
    return max((f for f in range(n // 5 + 1) if least_rows(rule, f) <= n), default=0)


def ours(rule: str, f: int) -> Work:
    """Return our rule; a pre-aggregator alone writes its n x d mixtures as others do."""
    if rule in CHAINS:
        pre, name = rule.split(" > ")
        return lambda rows: aggregate(rows, name, f=f, pre=[pre])
    if rule in RULES.names():
        given = {} if rule in ("mean", "clip-noise") else {"f": f}
        return lambda rows: aggregate(rows, rule, **given)
    method = PRE_AGGREGATORS.load(rule)
    stage = method() if rule == "clipping" else method(f=f)
    assert isinstance(stage, AbstractPreAggregator)

    def mixtures(rows: torch.Tensor) -> object:
        view = RowView.of(rows)
        return weighted(view, stage.mix(geometry(view), generator(0)))

    return mixtures


def cdist_krum(f: int) -> Work:
    """Return the few lines of torch that do without any of this."""

    def krum(rows: torch.Tensor) -> object:
        scores = torch.cdist(rows, rows).square().sort(1).values[:, 1 : len(rows) - f - 1].sum(1)
        return rows[scores.argmin()].clone()

    return krum


def contenders(rule: str, n: int, f: int, rows: torch.Tensor) -> dict[str, Work]:
    """Return everything that is timed for a rule."""
    into = torch.empty_like(rows)
    found: dict[str, Work] = {"copy": into.copy_, "ours": ours(rule, f)}
    plain: dict[str, Work] = {
        "mean": lambda x: x.mean(0),
        "median": lambda x: x.median(0),
        "trimmed-mean": lambda x: x.sort(0).values[f : n - f].mean(0),
        "krum": cdist_krum(f),
    }
    for who, rules in (("torch", plain), ("byzfl", _peers.byzfl(f, n)), ("flwr", _peers.flwr(f, n))):
        if rule in rules:
            found[who] = rules[rule]
    return found


@dataclass(frozen=True)
class Bench:
    """How often and by which clock."""

    rounds: int
    longest: float
    clock: str

    def seconds(self, work: Work, rows: torch.Tensor) -> float:
        """Return what a call takes."""
        now = CLOCKS[self.clock]
        start = now()
        work(rows)
        return now() - start


def measure(line: Line, rows: torch.Tensor, bench: Bench, slow: dict[tuple[str, str, int], float]) -> None:
    """Fill a line with times."""
    works = contenders(line.rule, line.n, line.f, rows)
    for peer in ("byzfl", "flwr"):
        if peer not in works:
            line.notes[peer] = "none" if _peers.folder_of(peer) else "not installed"
    taken: dict[str, list[float]] = {who: [] for who in works}
    for who, work in list(works.items()):
        before = slow.get((line.rule, who, line.n), 0.0)
        if who not in ("copy", "ours") and before * line.d > bench.longest:
            line.notes[who] = f"left out: about {before * line.d:.0f} s"
            continue
        try:
            first = bench.seconds(work, rows)  # machine code is made in this call; torch and numpy warm up too
        except (Misuse, ValueError, RuntimeError, TypeError, IndexError) as error:
            line.notes[who] = f"{type(error).__name__}: {error}"[:70]
            continue
        slow[line.rule, who, line.n] = first / line.d
        if first > bench.longest:
            taken[who].append(first)
            del works[who]
    alive = [who for who in works if who not in line.notes]
    for _ in range(bench.rounds):
        for who in alive:
            taken[who].append(bench.seconds(works[who], rows))
    line.least = {who: 1e3 * min(times) for who, times in taken.items() if times}
    line.middle = {who: 1e3 * statistics.median(times) for who, times in taken.items() if times}


def resident(name: str) -> int:
    """Return a size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def child(n: int, d: int, rules: list[str]) -> None:
    """Print, for each rule, what a second call adds to the resident set as a share of the rows."""
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    found = {}
    for rule in rules:
        work = ours(rule, liars(rule, n))
        try:
            work(rows)
        except Misuse:
            continue
        ctypes.CDLL(None).malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        work(rows)
        found[rule] = (resident("VmHWM") - before) / (4 * n * d)
    print(json.dumps(found))


def memory(n: int, d: int, rules: list[str]) -> dict[str, float]:
    """Return the peak beside the rows as a share of them, or nothing where the system does not tell."""
    given = [str(n), str(d), *rules]
    done = subprocess.run([sys.executable, __file__, "--child", *given], capture_output=True, text=True, check=False)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def shown(line: Line) -> str:
    """Return the line of a table."""

    def times(who: str) -> str:
        return f"{line.least[who]:9.1f}" if who in line.least else f"{line.notes.get(who, '-')[:9]:>9s}"

    def ratio(to: str) -> str:
        found = line.ratio(to)
        return f"{found:7.3f}" if found is not None else f"{'':7s}"

    below = []
    if (share := line.ratio("byzfl")) is not None and share > FLOORS.get(line.rule, share):
        below.append(f"{share:.2f} of byzfl")
    if line.n == 25 and (copies := line.ratio("copy")) is not None and copies > COPIES.get(line.rule, copies):
        below.append(f"{copies:.1f} copies")
    if (share := line.ratio("torch")) is not None and share > PLAIN.get(line.rule, share):
        below.append(f"{share:.2f} of torch")
    extra = "" if line.extra_memory is None else f"{100 * line.extra_memory:5.1f}%"
    size = f"{line.rule:19s} {line.n:3d} {line.d:9.0e} {line.f:3d}"
    columns = " ".join(times(who) for who in ("copy", "ours", "torch", "byzfl", "flwr"))
    verdict = "  BELOW THE FLOOR: " + ", ".join(below) if below else ""
    return f"{size} {columns} {ratio('copy')} {ratio('byzfl')} {extra:>7s}{verdict}"


def subsets(bench: Bench) -> str:
    """Return the line of MDA where nobody can enumerate the subsets."""
    rows = torch.randn(30, 10_000, generator=torch.Generator().manual_seed(0))
    work = ours("mda", 10)
    taken = [1e3 * bench.seconds(work, rows) for _ in range(max(3, bench.rounds))]
    verdict = "" if min(taken) <= 50 else "  BELOW THE FLOOR"
    return f"mda with n=30, f=10, d=1e4: {min(taken):.1f} ms (accepted: 50){verdict}"


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[10, 25, 50])
    parser.add_argument("--d", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--rules", nargs="+", default=names(), choices=names(), metavar="RULE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--longest", type=float, default=10.0)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: of all threads, for a busy machine")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(int(options.child[0]), int(options.child[1]), options.child[2:])
        return
    bench = Bench(options.rounds, options.longest, options.clock)
    setting = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    setting |= {"machine code": available(), "rounds": options.rounds, "clock": options.clock}
    print(", ".join(f"{key}: {value}" for key, value in setting.items()))
    print(
        f"{'rule':19s} {'n':>3s} {'d':>9s} {'f':>3s}"
        + "".join(f"{who:>10s}" for who in WHO)
        + "  /copy  /byzfl  memory"
    )
    lines, slow = [], dict[tuple[str, str, int], float]()
    for d in map(int, options.d):
        for n in options.n:
            rows = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
            extra = {} if options.no_memory else memory(n, d, options.rules)
            for rule in options.rules:
                line = Line(rule, n, d, liars(rule, n), extra_memory=extra.get(rule))
                measure(line, rows, bench, slow)
                lines.append(line)
                print(shown(line), flush=True)
    print(subsets(bench))
    if options.json:
        options.json.write_text(json.dumps({"setting": setting, "lines": [asdict(line) for line in lines]}, indent=1))


WHO = ("copy ms", "ours ms", "torch ms", "byzfl ms", "flwr ms")

if __name__ == "__main__":
    main()
