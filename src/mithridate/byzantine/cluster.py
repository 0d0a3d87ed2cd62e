"""The cluster file: who takes part, who must answer, what is trained and how. Strict and typed; no torch here.

Every node reads the same file. What a node must not trust others for is in it: the addresses, the certificates'
fingerprints, the numbers f and q, the rule. A Byzantine node's entry names the program that it runs (`behaviour`); an
honest node never looks at that.

    protocol  ssmw   one trusted server, workers
              msmw   replicated servers, workers; nobody is trusted
              p2p    peers that agree on averages; nobody is trusted
    variant   byzantine, guanyu (msmw with its first thresholds), or a baseline that bears no liar: vanilla (the mean
              of all replies) and crash-tolerant (the mean of the first n - f)

`f: auto` is the largest number that the rule allows when n - f replies are waited for.
"""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from mithridate.byzantine import quorums
from mithridate.byzantine.sections import (
    MAX_NODES,
    AbstractSection,
    AgreementSection,
    DataSection,
    DeadlineSection,
    GroupSection,
    Method,
    NodeSection,
    PreAggregator,
    Rule,
    TrainingSection,
    checked_model,
)
from mithridate.core.errors import Misuse
from mithridate.core.problems import as_misuse, read_source

ADVICE = "`mithridate byzantine init` writes an annotated cluster.yaml; `mithridate byzantine local` needs none"
_INIT = "`mithridate byzantine init` writes an example with every key explained"
_BASELINES = ("vanilla", "crash-tolerant")


class ClusterConfig(AbstractSection):
    """Everything that the nodes of a cluster must agree on."""

    protocol: Literal["ssmw", "msmw", "p2p"]
    """ssmw: one trusted server; msmw: replicated servers; p2p: peers"""
    variant: Literal["byzantine", "guanyu", "vanilla", "crash-tolerant"] = "byzantine"
    """guanyu: msmw with the thresholds of its first version; vanilla and crash-tolerant: baselines without a defense"""
    nodes: Annotated[tuple[NodeSection, ...], Field(strict=False, min_length=1, max_length=MAX_NODES)]
    """every process"""
    workers: GroupSection = GroupSection()
    """declared liars and quorum among workers"""
    servers: GroupSection = GroupSection()
    """declared liars and quorum among servers (msmw)"""
    peers: GroupSection = GroupSection()
    """declared liars and quorum among peers (p2p)"""
    rule: Rule | None = None
    """how gradients are combined; by default multi-krum, for msmw mda; a baseline has the mean"""
    pre: Annotated[tuple[PreAggregator, ...], Field(strict=False)] = ()
    """pre-aggregators, in order"""
    gather_every: int = Field(default=1, ge=1, le=1000)
    """steps between two medians of the servers' models (msmw)"""
    agreement: AgreementSection = AgreementSection()
    """averaging agreement (p2p)"""
    model: Annotated[str, AfterValidator(checked_model)] = "mlp"
    """built-in name, timm:NAME, torchvision:NAME, hf:ID, package.module:factory or FILE.py:factory"""
    data: DataSection = DataSection()
    """the data set"""
    training: TrainingSection = TrainingSection()
    """the training step"""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """the one seed of the run"""
    omniscient: bool = False
    """honest nodes show their vectors to the attackers too; for experiments on loopback only"""
    deadlines: DeadlineSection = DeadlineSection()
    """how long to wait"""
    anywhere: bool = False
    """allow addresses that other machines can reach; otherwise nodes listen on loopback only"""
    checkpoint_every: int = Field(default=10, ge=1)
    """steps between two checkpoints of a node's state"""

    @model_validator(mode="after")
    def _fits(self) -> "ClusterConfig":
        _check_nodes(self)
        _check_numbers(self)
        return self

    def ids(self, role: str) -> tuple[int, ...]:
        """Return the numbers of the nodes of a role, in order."""
        return tuple(sorted(node.id for node in self.nodes if node.role == role))

    def node(self, number: int) -> NodeSection:
        """Return a node by its number.

        Raises:
            Misuse: MTH-0957, there is none.
        """
        for node in self.nodes:
            if node.id == number:
                return node
        known = ", ".join(str(node.id) for node in self.nodes)
        raise Misuse("MTH-0957", f"the cluster has no node {number}; its nodes are {known}", hint="choose one of them")

    @property
    def rule_method(self) -> Method:
        """The rule on gradients."""
        if self.variant in _BASELINES:
            return Method(name="mean")
        if self.rule is not None:
            return self.rule
        return Method(name="mda" if self.protocol == "msmw" and self.variant != "guanyu" else "multi-krum")

    @property
    def method_name(self) -> str:
        """What vectors are combined with, in a word: the rule, or the peers' agreement."""
        return self.agreement.kind if self.protocol == "p2p" and not self.is_baseline else self.rule_method.name

    @property
    def is_baseline(self) -> bool:
        """Whether the variant bears no liar."""
        return self.variant in _BASELINES

    def f(self, role: str) -> int:
        """Return the declared liars of a role."""
        group = self._group(role).f
        return self._largest_f(role) if group == "auto" else group

    def quorum(self, role: str) -> int:
        """Return how many of a role are waited for."""
        wanted = self._group(role).quorum
        return len(self.ids(role)) - self.f(role) if wanted == "auto" else wanted

    def byzantine(self, role: str) -> tuple[int, ...]:
        """Return the nodes of a role that misbehave."""
        return tuple(
            sorted(
                node.id
                for node in self.nodes
                if node.role == role and node.behaviour is not None and node.behaviour.name != "none"
            )
        )

    def warnings(self) -> tuple[str, ...]:
        """Return what is legal and yet no fair test: more attackers than are declared."""
        found = []
        for role in dict.fromkeys(node.role for node in self.nodes):
            real, declared, count = len(self.byzantine(role)), self.f(role), len(self.ids(role))
            if real > declared and not self.is_baseline:
                rule = self.method_name
                words = f"{real} of {count} {role}s are Byzantine and f = {declared} is declared"
                if role == "server":
                    words += f": {count} servers bear at most {quorums.largest_server_f(count)}"
                elif declared == self._largest_f(role):
                    words += f", the most that {rule} bears among {count}"
                found.append(f"{words}; no guarantee covers this run")
        return tuple(found)

    def _group(self, role: str) -> GroupSection:
        return {"worker": self.workers, "server": self.servers, "peer": self.peers}[role]

    def _largest_f(self, role: str) -> int:
        count = len(self.ids(role))
        if self.variant == "vanilla":
            return 0
        if self.variant == "crash-tolerant":
            return max(0, (count - 1) // 3)
        if role == "peer":
            return quorums.largest_peer_f(count, self.agreement.kind, self.agreement.broadcast)
        if role == "server":
            return quorums.largest_server_f(count, self.variant) if self.protocol == "msmw" else 0
        most = quorums.largest_f(count, self.rule_method.name)
        return min(most, max(0, (count - 3) // 3)) if self.variant == "guanyu" else most


_ROLES = {"ssmw": ("server", "worker"), "msmw": ("server", "worker"), "p2p": ("peer",)}


def _check_nodes(cluster: ClusterConfig) -> None:
    numbers = [str(node.id) for node in cluster.nodes]
    addresses = [node.address for node in cluster.nodes]
    for what, values in (("id", numbers), ("address", addresses)):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise Misuse("MTH-0950", f"two nodes have the {what} {twice}", hint=f"give every node its own {what}")
    roles = _ROLES[cluster.protocol]
    for node in cluster.nodes:
        if node.role not in roles:
            raise Misuse(
                "MTH-0950",
                f"node {node.id} is a {node.role}, and {cluster.protocol} has {' and '.join(roles)} nodes only",
                hint="change the role or the protocol",
            )
    for role in roles:
        if not cluster.ids(role):
            raise Misuse("MTH-0950", f"{cluster.protocol} needs at least one {role}, and there is none")
    servers = len(cluster.ids("server"))
    if cluster.protocol == "ssmw" and servers != 1:
        raise Misuse(
            "MTH-0950",
            f"ssmw has one trusted server, and there are {servers}",
            hint="choose protocol msmw for several servers",
        )
    if not cluster.anywhere and (outside := next((a for a in addresses if not _is_loopback(a)), None)):
        raise Misuse(
            "MTH-0956",
            f"{outside} can be reached from other machines, and nodes listen on loopback unless told otherwise",
            hint="set anywhere to true, and copy to each machine only the private keys of its own node",
        )
    if cluster.omniscient and (outside := next((a for a in addresses if not _is_loopback(a)), None)):
        raise Misuse(
            "MTH-0956",
            f"omniscient attackers are for experiments on one machine, and {outside} is no loopback address",
            hint="set omniscient to false",
        )


def _check_numbers(cluster: ClusterConfig) -> None:
    if cluster.variant == "guanyu" and cluster.protocol != "msmw":
        raise Misuse("MTH-0950", f"guanyu is a variant of msmw, and the protocol is {cluster.protocol}")
    if cluster.is_baseline and cluster.rule is not None and cluster.rule.name != "mean":
        raise Misuse(
            "MTH-0950",
            f"the baseline {cluster.variant} has the mean, and rule is {cluster.rule.name}",
            hint="leave out rule, or choose variant byzantine",
        )
    if cluster.protocol == "p2p" and cluster.rule is not None and not cluster.is_baseline:
        raise Misuse(
            "MTH-0950",
            f"peers agree on averages and have no rule, and rule is {cluster.rule.name}",
            hint="leave out rule, and set agreement.kind to mda, rb-tm or icwtm",
        )
    for role in _ROLES[cluster.protocol]:
        count, f, quorum = len(cluster.ids(role)), cluster.f(role), cluster.quorum(role)
        if cluster.is_baseline:
            quorums.check_counts(nodes=count, f=f, quorum=quorum, who=f"{role}s")
        elif role == "peer":
            quorums.check_peers(
                peers=count, f=f, agreement=cluster.agreement.kind, broadcast=cluster.agreement.broadcast
            )
            quorums.check_counts(nodes=count, f=f, quorum=quorum, who="peers")
        elif role == "worker":
            rule, variant = cluster.rule_method.name, cluster.variant
            quorums.check_workers(workers=count, f=f, quorum=quorum, rule=rule, variant=variant)
        elif cluster.protocol == "msmw":
            quorums.check_servers(servers=count, f=f, quorum=quorum, variant=cluster.variant)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_cluster(path: Path) -> ClusterConfig:
    """Read and check a cluster file.

    Raises:
        Misuse: MTH-0120 for a missing file; MTH-0121 and MTH-095x with every problem and its line.
        BadArtefact: The file is not the YAML that is read here.
    """
    source = read_source(path, advice=ADVICE)
    try:
        return ClusterConfig.model_validate(source.values)
    except ValidationError as error:
        raise as_misuse(error, ClusterConfig, source, {}, advice=_INIT) from None


def build_cluster(values: Mapping[str, Any], flags: Mapping[tuple[str, ...], str]) -> ClusterConfig:
    """Check plain values, as the command line gives them.

    Args:
        values: What a cluster file would hold.
        flags: The flag that set each value, for messages.

    Raises:
        Misuse: MTH-0121 and MTH-095x with every problem and its flag.
    """
    from mithridate.core.problems import Source

    try:
        return ClusterConfig.model_validate(values)
    except ValidationError as error:
        raise as_misuse(error, ClusterConfig, Source(name="", values=values), flags, advice=_INIT) from None


def dump(cluster: ClusterConfig) -> str:
    """Return the cluster as YAML, every field written out, f and quorums as numbers."""
    document = cluster.model_dump(mode="json")
    for role in _ROLES[cluster.protocol]:
        document[f"{role}s"] = {"f": cluster.f(role), "quorum": cluster.quorum(role)}
    if cluster.protocol != "p2p":
        document["rule"] = cluster.rule_method.model_dump(mode="json")
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return text
