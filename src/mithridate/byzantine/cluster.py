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
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from mithridate.byzantine import quorums
from mithridate.core.errors import Misuse
from mithridate.core.methods import check_method
from mithridate.core.problems import as_misuse, read_source
from mithridate.core.registry import Registry
from mithridate.data.names import check_source
from mithridate.models.names import check_name

RULES = Registry("mithridate.aggregation", "aggregation rule", "mithridate.aggregators")
PRE_AGGREGATORS = Registry("mithridate.aggregation.pre", "pre-aggregator", None)
ADVERSARIES = Registry("mithridate.aggregation.adversaries", "attack", None)

MISBEHAVIOURS: Mapping[str, str] = {
    "silent": "takes part in nothing",
    "crash": "works honestly, then stops for good before step `at`",
    "replay": "sends its first vector again and again, under the present round's tag",
    "garbage": "sends random bytes in place of every vector",
    "equivocate": "sends each receiver another multiple of its vector",
    "slow": "answers honestly, `seconds` late",
}
"""What a Byzantine node may do beside the row attacks of `mithridate.aggregation.adversaries`."""

ADVICE = "`mithridate byzantine init` writes an annotated cluster.yaml; `mithridate byzantine local` needs none"
_INIT = "`mithridate byzantine init` writes an example with every key explained"
_BASELINES = ("vanilla", "crash-tolerant")
_MAX_NODES = 1000


def attack_names() -> tuple[str, ...]:
    """Return every behaviour that a Byzantine node may be given."""
    return tuple(sorted({*ADVERSARIES.names(), *MISBEHAVIOURS}))


def _method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f"must be HOST:PORT with a port in [1, 65535], got {text!r}")
    return text


def _fingerprint(text: str | None) -> str | None:
    if text is not None and (len(text) != 64 or any(letter not in "0123456789abcdef" for letter in text)):
        raise ValueError(f"must be the sha256 of a certificate, 64 hexadecimal digits, got {text[:70]!r}")
    return text


def _checked_source(name: str) -> str:
    check_source(name)
    return name


def _checked_model(name: str) -> str:
    check_name(name)
    return name


class _Section(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Method(_Section):
    """A rule, a pre-aggregator or an attack by name, with options of its own."""

    name: str
    """see `mithridate list`"""
    options: dict[str, JsonValue] = {}
    """fields of the method; what is left out keeps its default"""


def _rule(method: Method) -> Method:
    check_method(RULES, method.name)
    return method


def _pre(method: Method) -> Method:
    check_method(PRE_AGGREGATORS, method.name)
    return method


def _behaviour(method: Method | None) -> Method | None:
    if method is not None:
        check_method(ADVERSARIES, method.name, tuple(MISBEHAVIOURS))
    return method


Rule = Annotated[Method, BeforeValidator(_method), AfterValidator(_rule)]
PreAggregator = Annotated[Method, BeforeValidator(_method), AfterValidator(_pre)]
Behaviour = Annotated[Method | None, BeforeValidator(_method), AfterValidator(_behaviour)]


class NodeSection(_Section):
    """One process."""

    id: int = Field(ge=0, lt=_MAX_NODES)
    """its number, unique in the cluster; rows are sorted by it"""
    role: Literal["server", "worker", "peer"]
    """what it does; the roles follow from the protocol"""
    address: Annotated[str, AfterValidator(_address)]
    """HOST:PORT where it listens"""
    fingerprint: Annotated[str | None, AfterValidator(_fingerprint)] = None
    """sha256 of its certificate; `mithridate byzantine keys` fills it in"""
    behaviour: Behaviour = None
    """what a Byzantine node does: an attack or a misbehaviour; honest nodes have none"""


class GroupSection(_Section):
    """How many of a group may lie or be down, and how many are waited for."""

    f: Annotated[int | Literal["auto"], Field()] = "auto"
    """declared number of liars; auto is the largest that the rule allows"""
    quorum: Annotated[int | Literal["auto"], Field()] = "auto"
    """replies that are waited for; auto is n - f"""


class AgreementSection(_Section):
    """Averaging agreement among peers."""

    kind: Literal["mda", "rb-tm", "icwtm"] = "rb-tm"
    """mda (n >= 6f+1), rb-tm (n >= 3f+1, over reliable broadcast) or icwtm (n >= 4f+1)"""
    broadcast: Literal["plain", "consistent", "reliable"] = "reliable"
    """how a vector is sent to all: plain, consistent (no two versions), reliable (all or nobody, no two versions)"""
    gradient_rounds: int | None = Field(default=None, ge=0, le=1000)
    """rounds on gradients per step; null follows the theory, ceil(log2 t) halvings"""
    model_rounds: int | None = Field(default=None, ge=0, le=1000)
    """rounds on models per step; null follows the theory, one halving"""


class DataSection(_Section):
    """What is trained on, and how it is spread."""

    source: Annotated[str, AfterValidator(_checked_source)] = "digits"
    """digits, mnist, fashion-mnist, cifar10, a folder, a parquet or npz file, or hf:owner/name@revision"""
    per_class: int | None = Field(default=None, ge=1)
    """keep only the first so many training images of each class"""
    size: int | None = Field(default=None, ge=8, le=224)
    """resize square images of a folder or hub data set to this side, in pixels"""
    split: Literal["iid", "by-label"] = "iid"
    """iid deals the training set at random; by-label gives every worker few classes"""


class TrainingSection(_Section):
    """The training step and its length."""

    steps: int = Field(default=200, ge=1, le=10_000_000)
    """updates of the model"""
    batch: int = Field(default=32, ge=1, le=1 << 20)
    """examples per worker and step"""
    lr: float = Field(default=0.5, gt=0, le=1000)
    """step size; halved at one half and at three quarters of the run"""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """momentum of each worker before it sends (dampened: the step size keeps its meaning)"""
    clip: float | None = Field(default=None, gt=0)
    """largest norm of a worker's gradient, before momentum; null clips nothing"""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """L2 decay, applied where the model is updated"""
    augment: bool = False
    """shift and flip images; not for digits"""
    evaluate_every: int = Field(default=20, ge=1)
    """steps between two measurements of test accuracy"""


class DeadlineSection(_Section):
    """How long a node waits before it saves its state and gives up, in seconds."""

    start: float = Field(default=60.0, gt=0, le=86_400)
    """for the first round: until the others are up"""
    round: float = Field(default=60.0, gt=0, le=86_400)
    """for every later quorum"""


class ClusterConfig(_Section):
    """Everything that the nodes of a cluster must agree on."""

    protocol: Literal["ssmw", "msmw", "p2p"]
    """ssmw: one trusted server; msmw: replicated servers; p2p: peers"""
    variant: Literal["byzantine", "guanyu", "vanilla", "crash-tolerant"] = "byzantine"
    """guanyu: msmw with the thresholds of its first version; vanilla and crash-tolerant: baselines without a defense"""
    nodes: Annotated[tuple[NodeSection, ...], Field(strict=False, min_length=1, max_length=_MAX_NODES)]
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
    model: Annotated[str, AfterValidator(_checked_model)] = "mlp"
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
