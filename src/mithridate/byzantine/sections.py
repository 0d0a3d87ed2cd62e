"""The parts of a cluster file: nodes, groups, agreement, data, training, deadlines. No torch here."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from mithridate.core.methods import check_method
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

MAX_NODES = 1000


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


def checked_model(name: str) -> str:
    """Return the name of a model that there is, or raise `Misuse`."""
    check_name(name)
    return name


class AbstractSection(BaseModel):
    """A part of the cluster file: strict, frozen, without unknown keys."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Method(AbstractSection):
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


class NodeSection(AbstractSection):
    """One process."""

    id: int = Field(ge=0, lt=MAX_NODES)
    """its number, unique in the cluster; rows are sorted by it"""
    role: Literal["server", "worker", "peer"]
    """what it does; the roles follow from the protocol"""
    address: Annotated[str, AfterValidator(_address)]
    """HOST:PORT where it listens"""
    fingerprint: Annotated[str | None, AfterValidator(_fingerprint)] = None
    """sha256 of its certificate; `mithridate byzantine keys` fills it in"""
    behaviour: Behaviour = None
    """what a Byzantine node does: an attack or a misbehaviour; honest nodes have none"""


class GroupSection(AbstractSection):
    """How many of a group may lie or be down, and how many are waited for."""

    f: Annotated[int | Literal["auto"], Field()] = "auto"
    """declared number of liars; auto is the largest that the rule allows"""
    quorum: Annotated[int | Literal["auto"], Field()] = "auto"
    """replies that are waited for; auto is n - f"""


class AgreementSection(AbstractSection):
    """Averaging agreement among peers."""

    kind: Literal["mda", "rb-tm", "icwtm"] = "rb-tm"
    """mda (n >= 6f+1), rb-tm (n >= 3f+1, over reliable broadcast) or icwtm (n >= 4f+1)"""
    broadcast: Literal["plain", "consistent", "reliable"] = "reliable"
    """how a vector is sent to all: plain, consistent (no two versions), reliable (all or nobody, no two versions)"""
    gradient_rounds: int | None = Field(default=None, ge=0, le=1000)
    """rounds on gradients per step; null follows the theory, ceil(log2 t) halvings"""
    model_rounds: int | None = Field(default=None, ge=0, le=1000)
    """rounds on models per step; null follows the theory, one halving"""


class DataSection(AbstractSection):
    """What is trained on, and how it is spread."""

    source: Annotated[str, AfterValidator(_checked_source)] = "digits"
    """digits, mnist, fashion-mnist, cifar10, a folder, a parquet or npz file, or hf:owner/name@revision"""
    per_class: int | None = Field(default=None, ge=1)
    """keep only the first so many training images of each class"""
    size: int | None = Field(default=None, ge=8, le=224)
    """resize square images of a folder or hub data set to this side, in pixels"""
    split: Literal["iid", "by-label"] = "iid"
    """iid deals the training set at random; by-label gives every worker few classes"""


class TrainingSection(AbstractSection):
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


class DeadlineSection(AbstractSection):
    """How long a node waits before it saves its state and gives up, in seconds."""

    start: float = Field(default=60.0, gt=0, le=86_400)
    """for the first round: until the others are up"""
    round: float = Field(default=60.0, gt=0, le=86_400)
    """for every later quorum"""
