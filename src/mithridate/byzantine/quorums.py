"""Who must answer: how many nodes, how many liars, how many replies. Every precondition, without torch.

A node that waits for all n replies waits forever for one that is down, so it waits for a quorum q <= n - f. All f liars
may be among these q, so a rule is called with q rows and still with f. What a rule needs of its rows therefore becomes
a condition on the nodes:

    needs of the rule     rows        nodes, with q = n - f
    median, MDA, ...      2f + 1      3f + 1
    (Multi-)Krum          2f + 3      3f + 3
    (Multi-)Bulyan        4f + 3      5f + 3

Papers   El-Mhamdi, Guerraoui, Guirguis, Hoang, Rouault (PODC 2020), arXiv 1905.03853: n_ps > 3 f_ps + 1 and
         n_w >= 3 f_w + 1 are those of the abstract; the bounds on the quorums follow the protocol.
         El-Mhamdi, Farhadkhani, Guerraoui, Guirguis, Hoang, Rouault (NeurIPS 2021), arXiv 2008.00742.
         Blanchard et al. (NeurIPS 2017), arXiv 1703.02757: Krum. El-Mhamdi et al. (ICML 2018): Bulyan.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mithridate.core.errors import Misuse

Agreement = Literal["mda", "rb-tm", "icwtm"]
Broadcast = Literal["plain", "consistent", "reliable"]

AGREEMENTS: tuple[str, ...] = ("mda", "rb-tm", "icwtm")
BROADCASTS: tuple[str, ...] = ("plain", "consistent", "reliable")


@dataclass(frozen=True)
class Need:
    """At least `per_liar` * f + `plus` rows."""

    per_liar: int
    plus: int

    def rows(self, f: int) -> int:
        """Return the least number of rows."""
        return self.per_liar * f + self.plus

    def words(self) -> str:
        """Return the condition as it is written in papers."""
        return f"{self.per_liar}f + {self.plus}"


_MAJORITY, _KRUM, _BULYAN = Need(2, 1), Need(2, 3), Need(4, 3)
RULE_NEEDS: Mapping[str, Need] = MappingProxyType(
    {
        "krum": _KRUM,
        "multi-krum": _KRUM,
        "bulyan": _BULYAN,
        "multi-bulyan": _BULYAN,
        "multi-bulyan-ext": _BULYAN,
    }
)
"""Rules that need more than a majority of honest rows; every other robust rule needs 2f + 1."""


MEANS = ("mean", "clip-noise")
"""Rules without a vote: one liar is enough, or one row of NaN."""


def rule_need(rule: str) -> Need:
    """Return what a rule needs of its rows. Plugins are taken to need a majority; their own `check` says more."""
    return RULE_NEEDS.get(rule, _MAJORITY)


def largest_f(nodes: int, rule: str) -> int:
    """Return the most liars that a rule bears when it is given the first n - f of n replies.

    Args:
        nodes: Number of senders.
        rule: Its name. Means bear none.
    """
    if rule in MEANS:
        return 0
    need = rule_need(rule)
    return max(0, (nodes - need.plus) // (need.per_liar + 1))


def check_rule(rule: str, *, nodes: int, f: int, quorum: int, who: str = "workers") -> None:
    """Raise `Misuse` unless the rule is defined for a quorum's rows.

    Args:
        rule: The rule's name.
        nodes: Number of senders.
        f: Declared number of liars among them.
        quorum: Number of replies that are waited for.
        who: What the senders are called.

    Raises:
        Misuse: MTH-0952 with the numbers, and what would satisfy them.
    """
    if rule in MEANS:
        if f:
            raise Misuse(
                "MTH-0952",
                f"{'the mean' if rule == 'mean' else rule} bears no liar, and f = {f} of {nodes} {who} are declared",
                hint="choose a robust rule such as median or multi-krum, or declare f = 0",
            )
        return
    need = rule_need(rule)
    if quorum >= need.rows(f):
        return
    most = largest_f(nodes, rule)
    raise Misuse(
        "MTH-0952",
        f"{rule} needs {need.words()} = {need.rows(f)} rows for f = {f}, and {quorum} of {nodes} {who} are waited for",
        hint=f"with {nodes} {who} it bears f = {most} at a quorum of {nodes - most}; f = {f} takes "
        f"{need.rows(f) + f} {who}",
    )


def check_counts(*, nodes: int, f: int, quorum: int, who: str) -> None:
    """Raise `Misuse` unless 0 <= f < n and 1 <= q <= n - f.

    Raises:
        Misuse: MTH-0951 with the numbers.
    """
    if nodes < 1:
        raise Misuse("MTH-0951", f"there must be at least one of the {who}, got {nodes}")
    if not 0 <= f < nodes:
        raise Misuse("MTH-0951", f"f of the {who} must be in [0, {nodes - 1}] for {nodes} of them, got {f}")
    if not 1 <= quorum <= nodes - f:
        raise Misuse(
            "MTH-0951",
            f"the quorum of the {who} must be in [1, n - f] = [1, {nodes - f}], got {quorum}",
            hint="f of them may never answer; waiting for more than n - f may last forever",
        )


def largest_server_f(servers: int, variant: str = "byzsgd") -> int:
    """Return the most lying servers that the median of models bears: n_ps >= 3f + 2, or 3f + 3 for `guanyu`."""
    return max(0, (servers - (3 if variant == "guanyu" else 2)) // 3)


def check_servers(*, servers: int, f: int, quorum: int, variant: str = "byzsgd") -> None:
    """Raise `Misuse` unless replicated servers can bear f liars among them.

    ByzSGD: n_ps >= 3f + 2 and 2f + 2 <= q_ps <= n_ps - f. The first version (GuanYu), which this implementation calls
    `guanyu`: n_ps >= 3f + 3 and 2f + 3 <= q_ps <= n_ps - f.

    Raises:
        Misuse: MTH-0951 or MTH-0953 with the numbers.
    """
    plus = 3 if variant == "guanyu" else 2
    if servers < 3 * f + plus:
        raise Misuse(
            "MTH-0953",
            f"{servers} servers cannot bear f = {f} liars: 3f + {plus} = {3 * f + plus} are needed",
            hint=f"declare f = {largest_server_f(servers, variant)}, or start {3 * f + plus} servers",
        )
    check_counts(nodes=servers, f=f, quorum=quorum, who="servers")
    if quorum < 2 * f + plus:
        raise Misuse(
            "MTH-0953",
            f"a quorum of {quorum} servers is too small for f = {f}: 2f + {plus} = {2 * f + plus} models are needed",
            hint=f"with {servers} servers it may be up to {servers - f}",
        )


def check_workers(*, workers: int, f: int, quorum: int, rule: str, variant: str = "byzsgd") -> None:
    """Raise `Misuse` unless the workers' replies can bear f liars under the rule.

    Raises:
        Misuse: MTH-0951, MTH-0952 or MTH-0954 with the numbers.
    """
    plus = 3 if variant == "guanyu" else 1
    if f and workers < 3 * f + plus:
        raise Misuse(
            "MTH-0954",
            f"{workers} workers cannot bear f = {f} liars: 3f + {plus} = {3 * f + plus} are needed",
            hint=f"declare f = {max(0, (workers - plus) // 3)}, or start {3 * f + plus} workers",
        )
    check_counts(nodes=workers, f=f, quorum=quorum, who="workers")
    if f and quorum < 2 * f + plus:
        raise Misuse(
            "MTH-0954",
            f"a quorum of {quorum} workers is too small for f = {f}: 2f + {plus} = {2 * f + plus} gradients are needed",
            hint=f"with {workers} workers it may be up to {workers - f}",
        )
    check_rule(rule, nodes=workers, f=f, quorum=quorum)


_PEERS: Mapping[str, int] = MappingProxyType({"mda": 6, "rb-tm": 3, "icwtm": 4})


def largest_peer_f(peers: int, agreement: str, broadcast: str) -> int:
    """Return the most lying peers that an agreement bears under a broadcast layer."""
    return max(0, (peers - 1) // _peers_per_liar(agreement, broadcast))


def check_peers(*, peers: int, f: int, agreement: str, broadcast: str) -> None:
    """Raise `Misuse` unless n peers reach averaging agreement among f liars: n >= 6f+1, 3f+1 or 4f+1.

    Iterated trimmed means (`icwtm`) under plain sending do not contract at n = 4f + 1 when liars equivocate and choose
    who hears whom (the stall of five nodes in the tests), so plain sending is refused below 5f + 1. Trimmed means over
    reliable broadcast (`rb-tm`) are defined over reliable broadcast alone.

    Raises:
        Misuse: MTH-0955 with the numbers.
    """
    if agreement == "rb-tm" and broadcast != "reliable":
        raise Misuse(
            "MTH-0955",
            f"rb-tm stands on reliable broadcast and its witnesses, and broadcast is {broadcast!r}",
            hint="set broadcast to reliable, or take mda (n >= 6f + 1) or icwtm (n >= 4f + 1)",
        )
    per_liar = _peers_per_liar(agreement, broadcast)
    if peers >= per_liar * f + 1:
        return
    why = " under plain sending, where liars may tell each peer another thing" if _stalls(agreement, broadcast) else ""
    other = "; under consistent broadcast 4f + 1 suffice" if _stalls(agreement, broadcast) else ""
    raise Misuse(
        "MTH-0955",
        f"{agreement} needs {per_liar}f + 1 = {per_liar * f + 1} peers for f = {f}{why}, got {peers}",
        hint=f"{peers} peers bear f = {largest_peer_f(peers, agreement, broadcast)}{other}",
    )


def _stalls(agreement: str, broadcast: str) -> bool:
    return agreement == "icwtm" and broadcast == "plain"


def _peers_per_liar(agreement: str, broadcast: str) -> int:
    # Consistent and reliable broadcast need 3f + 1 themselves, which every agreement here includes.
    return 5 if _stalls(agreement, broadcast) else _PEERS[agreement]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What an averaging agreement promises per round and in all.

    Attributes:
        factor: By which one round shrinks the honest diameter, or less.
        drift: C: how far the honest mean may move in all, in honest diameters; recalled from the paper and not derived
            here, None where none is known.
        proven: Whether the factor follows from a proof that we have; else it is what simulations gave, or recalled.
    """

    factor: float
    drift: float | None
    proven: bool

    def rounds(self, halvings: int, *, honest: int, coordinatewise: bool) -> int:
        """Return how many rounds shrink the diameter 2^halvings times.

        A factor that holds for every coordinate alone costs sqrt(h) more for the Euclidean diameter.
        """
        if halvings <= 0:
            return 0
        need = halvings * math.log(2)
        if coordinatewise:
            need += math.log(2) + math.log(honest) / 2
        return 1 if self.factor <= 0 else math.ceil(need / -math.log(self.factor))


def bounds(agreement: str, *, peers: int, f: int, quorum: int | None = None) -> Bounds:
    """Return the contraction and the drift of an agreement.

    MDA: one round contracts by (h + 4f - q) / (q - f), by matching the f lying pairs (at most two diameters apart) and
    the h + 2f - q honest pairs (at most one); the drift is ((2f + h - q) q + (q - 2f) f) / (h (q - 2f) e), with
    e = 2 eps / (1 + eps) and eps = (2q - h - 5f) / (h + 3f). RB-TM: f / (h - f) for every coordinate and
    C = 4f / sqrt(h), which are not derived here. ICwTM: about a half per round in simulation; nothing is claimed for C.

    Args:
        agreement: mda, rb-tm or icwtm.
        peers: Number of peers.
        f: Declared liars.
        quorum: Vectors per round; n - f when absent.
    """
    honest, q = peers - f, quorum or peers - f
    if agreement == "mda":
        factor = (honest + 4 * f - q) / (q - f)
        eps = (2 * q - honest - 5 * f) / (honest + 3 * f)
        spread = 2 * eps / (1 + eps)
        drift = ((2 * f + honest - q) * q + (q - 2 * f) * f) / (honest * (q - 2 * f) * spread)
        return Bounds(factor=factor, drift=drift, proven=True)
    if agreement == "rb-tm":
        return Bounds(factor=f / (honest - f), drift=4 * f / math.sqrt(honest), proven=False)
    return Bounds(factor=0.5 if f else 0.0, drift=None, proven=False)


def agreement_rounds(agreement: str, *, halvings: int, peers: int, f: int) -> int:
    """Return the rounds of AVG_N for N `halvings` of the diameter: ceil(N ln 2 / -ln factor), see `bounds`."""
    known = bounds(agreement, peers=peers, f=f)
    return known.rounds(halvings, honest=peers - f, coordinatewise=agreement != "mda")
