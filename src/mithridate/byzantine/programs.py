"""From the cluster file to a running node: its shard, its mouth, its program."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import torch
from torch import Tensor

from mithridate.aggregation._base import AbstractCombiner
from mithridate.aggregation.adversaries._base import AbstractAdversary, Rule
from mithridate.aggregation.adversaries.alie import ALittleIsEnough, quantile
from mithridate.aggregation.combine import combine
from mithridate.byzantine import mouths
from mithridate.byzantine.agreement import averaging
from mithridate.byzantine.broadcast import AbstractBroadcast, Signer, broadcast_layer
from mithridate.byzantine.cluster import ClusterConfig
from mithridate.byzantine.keeper import Keeper
from mithridate.byzantine.meter import Tell, quiet
from mithridate.byzantine.pins import identity_of
from mithridate.byzantine.protocols import msmw, p2p, ssmw
from mithridate.byzantine.protocols._base import Outcome, Post, broadcast_of, gradient_rule
from mithridate.byzantine.sections import ADVERSARIES, Method
from mithridate.byzantine.source import Learner, shard
from mithridate.byzantine.transport._base import AbstractTransport, Limits
from mithridate.core.errors import Misuse
from mithridate.core.methods import instantiate
from mithridate.data.sources import DataSet
from mithridate.numerics.row_view import RowView

Program = Callable[[Post], Awaitable[Outcome]]
_PROGRAMS: dict[tuple[str, str], Program] = {
    ("ssmw", "server"): ssmw.server,
    ("ssmw", "worker"): ssmw.worker,
    ("msmw", "server"): msmw.server,
    ("msmw", "worker"): msmw.worker,
    ("p2p", "peer"): p2p.peer,
}


@contextlib.asynccontextmanager
async def layer_of(
    cluster: ClusterConfig, transport: AbstractTransport, signer: Signer | None
) -> AsyncIterator[AbstractBroadcast | None]:
    """Yield the running broadcast layer among peers, None for the other protocols."""
    if cluster.protocol != "p2p":
        yield None
        return
    name, context = broadcast_of(cluster), identity_of(cluster).encode()
    async with broadcast_layer(name, transport, f=cluster.f("peer"), signer=signer, context=context) as layer:
        yield layer


def limits_of(cluster: ClusterConfig) -> Limits:
    """Return the bounds of a node's transport: workers of a trusted server follow its newest model."""
    follow = frozenset({"model"}) if cluster.protocol == "ssmw" else frozenset()
    return Limits(follow=follow)


def learner_of(cluster: ClusterConfig, data: DataSet, node: int) -> Learner:
    """Return the model of a node and its share of the training set; servers have none."""
    section = cluster.node(node)
    if section.role == "server":
        return Learner(cluster, data, None, node=node)
    group = cluster.ids(section.role)
    own = shard(data.train, part=group.index(node), parts=len(group), split=cluster.data.split, seed=cluster.seed)
    adversary = adversary_of(section.behaviour)
    labels = None
    if adversary is not None and adversary.knowledge == "data":
        labels = adversary.tamper(own.labels, len(own.classes))
    return Learner(cluster, data, own, node=node, labels=labels)


def adversary_of(behaviour: Method | None) -> AbstractAdversary | None:
    """Return the row attack of a behaviour, or None if it is none."""
    if behaviour is None or behaviour.name == "none" or behaviour.name not in ADVERSARIES.names():
        return None
    built: AbstractAdversary = instantiate(ADVERSARIES.load(behaviour.name), behaviour.name, behaviour.options)
    return built


def mouth_of(cluster: ClusterConfig, node: int) -> mouths.AbstractMouth:
    """Return what leaves a node.

    Raises:
        Misuse: An option of its behaviour is unknown or out of its range.
    """
    section = cluster.node(node)
    role, colluders = section.role, cluster.byzantine(section.role)
    if node not in colluders or section.behaviour is None:
        return mouths.Honest(leaks=_curious(cluster, role))
    adversary = adversary_of(section.behaviour)
    if adversary is None:
        return _misbehaviour(section.behaviour, cluster.seed)
    honest = tuple(other for other in cluster.ids(role) if other not in colluders)
    return mouths.Forger(
        adversary=adversary,
        colluders=colluders,
        informants=() if role == "peer" else honest if cluster.omniscient else colluders,
        rule=_rule_against(cluster, role),
        seed=cluster.seed,
    )


def _curious(cluster: ClusterConfig, role: str) -> tuple[int, ...]:
    """Return the attackers whom the honest nodes of a role must show their vectors."""
    if not cluster.omniscient or role == "peer":
        return ()
    found = [adversary_of(cluster.node(node).behaviour) for node in cluster.byzantine(role)]
    wanted = [adversary is not None and adversary.knowledge == "honest rows" for adversary in found]
    return tuple(node for node, curious in zip(cluster.byzantine(role), wanted, strict=True) if curious)


def _rule_against(cluster: ClusterConfig, role: str) -> Rule | None:
    """Return what the rows of a role will be combined with, for attacks that optimise against it."""
    if role == "peer":
        return averaging(cluster.agreement.kind, cluster.f(role))
    return _as_rule(gradient_rule(cluster)) if role == "worker" else None


def _as_rule(combiner: AbstractCombiner) -> Rule:
    def rule(rows: Tensor) -> Tensor:
        return combine(RowView.of(rows), combiner, state=combiner.init(), gen=torch.Generator())[0]

    return rule


_OPTIONS: dict[str, tuple[str, float]] = {"crash": ("at", 20), "slow": ("seconds", 1.0), "equivocate": ("factor", 10.0)}


def _misbehaviour(behaviour: Method, seed: int) -> mouths.AbstractMouth:
    name, default = _OPTIONS.get(behaviour.name, ("", 0.0))
    unknown = [option for option in behaviour.options if option != name]
    if unknown:
        raise Misuse("MTH-0123", f"{behaviour.name} has no option {unknown[0]!r}", hint=f"options: {name or 'none'}")
    value: Any = behaviour.options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise Misuse("MTH-0110", f"{behaviour.name}: {name} must be a number of 0 or more, got {value!r}")
    kinds: dict[str, Callable[[], mouths.AbstractMouth]] = {
        "silent": mouths.Silent,
        "crash": lambda: mouths.Crash(at=int(value)),
        "replay": mouths.Replay,
        "garbage": lambda: mouths.Garbage(seed=seed),
        "equivocate": lambda: mouths.Equivocate(factor=float(value)),
        "slow": lambda: mouths.Slow(seconds=float(value)),
    }
    return kinds[behaviour.name]()


def check_programs(cluster: ClusterConfig) -> tuple[str, ...]:
    """Build every rule and behaviour once, before a process starts, and return what users should know of them.

    Raises:
        Misuse: An unknown option, a value out of its range, a rule that is not defined for the quorum.
    """
    if cluster.protocol != "p2p":
        gradient_rule(cluster)
    notes = []
    for role in dict.fromkeys(node.role for node in cluster.nodes):
        bad = cluster.byzantine(role)
        for node in bad:
            mouth_of(cluster, node)
        attacks = [adversary_of(cluster.node(node).behaviour) for node in bad]
        honest = len(cluster.ids(role)) - len(bad)
        for attack in attacks[:1]:
            if isinstance(attack, ALittleIsEnough) and attack.z is None and quantile(honest + len(bad), len(bad)) <= 0:
                notes.append(
                    f"alie computes z = 0 for {len(bad)} of {honest + len(bad)} nodes: it sends the honest mean and "
                    "attacks nothing; give it a strength, such as alie:z=1.5"
                )
    return tuple(notes)


def post_of(
    cluster: ClusterConfig,
    transport: AbstractTransport,
    learner: Learner,
    *,
    layer: AbstractBroadcast | None = None,
    keeper: Keeper | None = None,
    tell: Tell = quiet,
) -> Post:
    """Return a node that is ready to run."""
    return Post(
        cluster=cluster,
        transport=transport,
        learner=learner,
        layer=layer,
        mouth=mouth_of(cluster, transport.me),
        keeper=keeper or Keeper(),
        tell=tell,
    )


async def run_program(post: Post) -> Outcome | None:
    """Run the program of a node; None if its behaviour was to crash."""
    section = post.cluster.node(post.me)
    try:
        return await _PROGRAMS[post.cluster.protocol, section.role](post)
    except mouths.Crashed:
        await asyncio.sleep(0)
        return None
