"""`mithridate byzantine`: training that survives liars, on real processes."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli._options import OutOption
from mithridate.cli._session import Session
from mithridate.cli._verb import verb
from mithridate.core.errors import Misuse

if TYPE_CHECKING:
    from mithridate.byzantine.cluster import ClusterConfig

app = typer.Typer(
    name="byzantine",
    help="Train with nodes of which some may lie: on this machine (local), or on several (init, keys, run).",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ClusterArgument = Annotated[Path, typer.Argument(metavar="CLUSTER", help="Cluster file, such as cluster.yaml.")]


def _option(flag: str, help_text: str, *, metavar: str, panel: str) -> Any:
    return typer.Option(flag, help=help_text, metavar=metavar, show_default=False, rich_help_panel=panel)


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """Who takes part, and who lies."""

    servers: Annotated[
        int, typer.Option("--servers", help="1: ssmw, more: msmw, 0: p2p.", metavar="N", rich_help_panel="Nodes")
    ] = 1
    workers: Annotated[
        int,
        typer.Option("--workers", help="Workers; in p2p the peers.", metavar="N", rich_help_panel="Nodes"),
    ] = 10
    byzantine_workers: Annotated[
        int,
        typer.Option("--byzantine-workers", help="How many of them lie.", metavar="N", rich_help_panel="Nodes"),
    ] = 0
    byzantine_servers: Annotated[
        int,
        typer.Option("--byzantine-servers", help="How many servers lie.", metavar="N", rich_help_panel="Nodes"),
    ] = 0
    attack: Annotated[
        str | None,
        _option(
            "--attack",
            "What lying workers do: alie, foe, sign-flip-own, nan, silent, ...; NAME:option=value,... sets options.",
            metavar="NAME",
            panel="Nodes",
        ),
    ] = None
    server_attack: Annotated[
        str | None,
        _option("--server-attack", "What lying servers do; by default reverse.", metavar="NAME", panel="Nodes"),
    ] = None
    blind: Annotated[
        bool,
        typer.Option(
            "--blind",
            help="Attackers know their own gradients only. By default they see what honest workers send, "
            "and speak first.",
            rich_help_panel="Nodes",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """How they work together."""

    protocol: Annotated[str | None, _option("--protocol", "ssmw, msmw or p2p.", metavar="NAME", panel="Protocol")] = (
        None
    )
    variant: Annotated[
        str | None,
        _option(
            "--variant",
            "byzantine, guanyu, or a baseline without defense: vanilla, crash-tolerant.",
            metavar="NAME",
            panel="Protocol",
        ),
    ] = None
    rule: Annotated[
        str | None,
        _option(
            "--rule",
            "How gradients are combined: multi-krum, median, multi-bulyan, mda, ...",
            metavar="NAME",
            panel="Protocol",
        ),
    ] = None
    pre: Annotated[
        list[str] | None,
        _option("--pre", "Pre-aggregator before the rule, may be repeated: nnm, ...", metavar="NAME", panel="Protocol"),
    ] = None
    f: Annotated[
        int | None,
        _option(
            "--f",
            "Declared liars among the workers (or peers), which nobody knows in earnest. By default the largest number "
            "that the rule bears when n - f replies are waited for; if more lie, the report says so.",
            metavar="N",
            panel="Protocol",
        ),
    ] = None
    f_servers: Annotated[
        int | None, _option("--f-servers", "The same among the servers.", metavar="N", panel="Protocol")
    ] = None
    quorum: Annotated[
        int | None,
        _option("--quorum", "Replies that are waited for, at most n - f.", metavar="N", panel="Protocol"),
    ] = None
    gather_every: Annotated[
        int | None,
        _option("--gather-every", "Steps between two medians of the servers' models.", metavar="T", panel="Protocol"),
    ] = None
    agreement: Annotated[
        str | None, _option("--agreement", "Among peers: mda, rb-tm or icwtm.", metavar="NAME", panel="Protocol")
    ] = None
    broadcast: Annotated[
        str | None,
        _option("--broadcast", "Among peers: plain, consistent or reliable.", metavar="NAME", panel="Protocol"),
    ] = None
    gradient_rounds: Annotated[
        int | None,
        _option(
            "--gradient-rounds",
            "Rounds of agreement on gradients per step; by default as many as the theory asks for.",
            metavar="N",
            panel="Protocol",
        ),
    ] = None
    model_rounds: Annotated[
        int | None, _option("--model-rounds", "The same on models.", metavar="N", panel="Protocol")
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What is trained."""

    data: Annotated[
        str | None,
        _option(
            "--data",
            "digits, mnist, fashion-mnist, cifar10, a folder, or hf:owner/name@revision.",
            metavar="NAME|DIR",
            panel="Training",
        ),
    ] = None
    split: Annotated[
        str | None, _option("--split", "iid, or by-label: few classes each.", metavar="NAME", panel="Training")
    ] = None
    model: Annotated[
        str | None, _option("--model", "As in `mithridate audit --model`.", metavar="NAME", panel="Training")
    ] = None
    steps: Annotated[int | None, _option("--steps", "Updates of the model.", metavar="N", panel="Training")] = None
    batch: Annotated[int | None, _option("--batch", "Examples per worker and step.", metavar="N", panel="Training")] = (
        None
    )
    lr: Annotated[float | None, _option("--lr", "Step size.", metavar="X", panel="Training")] = None
    momentum: Annotated[
        float | None, _option("--momentum", "Momentum at the workers.", metavar="X", panel="Training")
    ] = None
    deadline: Annotated[
        float | None,
        _option("--deadline", "Seconds to wait for a quorum before giving up.", metavar="S", panel="Training"),
    ] = None
    seed: Annotated[int | None, _option("--seed", "The one seed of the run.", metavar="N", panel="Training")] = None


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """What is demanded, and where it goes."""

    gate: Annotated[
        str | None,
        _option("--gate", "Fail unless this holds, such as 'clean_accuracy>0.9'.", metavar="TEST", panel="Output"),
    ] = None
    out: OutOption = None
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything and print the cluster file.", rich_help_panel="Output"),
    ] = False


@app.command("local")
@verb
def local(
    session: Session, nodes: NodeOptions, protocol: ProtocolOptions, training: TrainingOptions, result: ResultOptions
) -> None:
    """Start a whole cluster on this machine: one process a node, real sockets with mutual TLS, real data.

    Without --f the declared number of liars is the largest that the rule bears: multi-bulyan needs 4f + 3 rows, so of
    10 workers it bears f = 1 at a quorum of 9, whoever really lies; two attackers are then more than was declared,
    which the report says. Exit code: 0 trained, 1 the gate failed, 2 wrong use, 3 inconclusive, 4 too few nodes
    answered (the state is kept).
    """
    _needs_extra()
    cluster = _wished(nodes, protocol, training)
    if result.gate is not None:
        from mithridate.core.verdicts import Gate

        Gate.parse(result.gate)
    for warning in (*_unheeded(nodes, cluster), *cluster.warnings()):
        session.say(f"warning: {warning}")
    if result.dry_run:
        from mithridate.byzantine.cluster import dump
        from mithridate.byzantine.programs import check_programs

        for note in check_programs(cluster):
            session.say(f"warning: {note}")

        if session.json:
            session.result(json.loads(cluster.model_dump_json()))
        else:
            session.text(dump(cluster))
        return
    from mithridate.cli.audit import RUNS, typed

    folder = result.out or RUNS / _name(cluster)
    folder.mkdir(parents=True, exist_ok=True)
    session.folder = folder
    if (folder / "report.json").is_file():
        _show_finished(session, folder)
    from mithridate.byzantine.local import run_local
    from mithridate.byzantine.programs import check_programs
    from mithridate.byzantine.summary import write_report
    from mithridate.cli._views import show_run

    notes = check_programs(cluster)
    for note in notes:
        session.say(f"warning: {note}")
    finished = run_local(cluster, folder, progress=session.progress())
    lost = [f"worker {node} ended by {how}; the others went on without it" for node, how in finished.lost.items()]
    document = write_report(finished, command=typed(), gate=result.gate, notes=(*notes, *lost))
    show_run(session, document, folder)
    raise typer.Exit(int(document["verdict"]["exit_code"]))


@app.command("run")
@verb
def run(
    session: Session,
    path: ClusterArgument,
    node: Annotated[int, typer.Option("--node", metavar="ID", help="Which node of the cluster file to be.")],
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="Certificates and keys; by default keys/ beside the file."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="The node's own folder; by default nodes/node-ID beside the file."),
    ] = None,
) -> None:
    """Be one node of a cluster. Started again after a crash by the same command, the node takes part again.

    If too few others answer, it says who is missing, waits until the deadline of the cluster file, saves its state and
    ends with exit code 4.
    """
    _needs_extra()
    from mithridate.byzantine.cluster import load_cluster
    from mithridate.byzantine.identity import Identity
    from mithridate.byzantine.pins import Place, pins_of

    cluster = load_cluster(path)
    cluster.node(node)
    place = Place.beside(path, node)
    place = Place(keys=keys or place.keys, state=state or place.state)
    Identity.load(place.keys, node, pins_of(cluster))
    for warning in cluster.warnings():
        session.say(f"warning: {warning}")
    session.folder = place.state
    from mithridate.byzantine.node import run_here

    record = run_here(cluster, node, place, progress=session.progress())
    from mithridate.cli._views import pairs

    shown = {key: value for key, value in record.items() if key not in ("peers", "meter", "equivocations")}
    session.result(record, pairs(shown))


@app.command("keys")
@verb
def keys(
    session: Session,
    path: ClusterArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder; by default keys/ beside the file.")
    ] = None,
    days: Annotated[int, typer.Option("--days", metavar="N", help="How long the certificates are valid.", min=1)] = 365,
) -> None:
    """Make a certificate and keys for every node, and write the fingerprints into the cluster file.

    Copy to each machine ca.pem, all node-*.pem, and of the private files (.key, .sign) only those of its own node.
    """
    _needs_extra()
    from mithridate.byzantine.cluster import load_cluster
    from mithridate.byzantine.identity import make_keys
    from mithridate.byzantine.making import pin, read_text
    from mithridate.core.artefacts import write_atomic

    cluster = load_cluster(path)
    folder = out or path.parent / "keys"
    prints = make_keys(folder, [node.id for node in cluster.nodes], days=days)
    write_atomic(path, pin(read_text(path), prints).encode())
    session.result(
        {
            "keys": str(folder),
            "cluster": str(path),
            "fingerprints": {str(node): value for node, value in prints.items()},
        },
        f"wrote {len(prints)} certificates with their keys to {folder}, and their fingerprints to {path}",
        f"next: mithridate byzantine run {path} --node {cluster.nodes[0].id}, and so for every node on its machine",
    )


@app.command("init")
@verb
def init(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="Where to write.")] = Path("cluster.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write an annotated cluster.yaml; every key is there and explained."""
    from importlib.resources import files

    from mithridate.core.artefacts import write_atomic

    if path.exists() and not force:
        raise Misuse("MTH-0126", f"{str(path)!r} is there already", hint="give another path, or --force to overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, files("mithridate.cli").joinpath("examples", "cluster.yaml").read_bytes())
    session.result({"written": [str(path)]}, f"wrote {path}", f"next: mithridate byzantine keys {path}")


def _show_finished(session: Session, folder: Path) -> None:
    """Show the report of a run that is finished, and end: the same command does the same work once."""
    from mithridate.cli._views import show_run
    from mithridate.core.boundary import read_json
    from mithridate.report.schema import validate

    document = read_json(folder / "report.json")
    validate(document)
    session.say(f"{folder} is finished; remove it to train again")
    show_run(session, document, folder)
    raise typer.Exit(int(document["verdict"]["exit_code"]))


def _unheeded(nodes: NodeOptions, cluster: "ClusterConfig") -> list[str]:
    """Return what was asked for and has no effect."""
    found = []
    for role, attack, liars in (
        ("worker", nodes.attack, nodes.byzantine_workers),
        ("server", nodes.server_attack, nodes.byzantine_servers),
    ):
        if attack is not None and not liars:
            found.append(f"{attack} attacks nothing, as no {role} is Byzantine: see --byzantine-{role}s")
    if cluster.protocol == "p2p" and nodes.servers > 1:
        found.append(f"p2p has no servers; --servers {nodes.servers} has no effect")
    return found


def _needs_extra() -> None:
    """Raise `Misuse` if the extra is not installed, before anything heavy is imported."""
    import importlib.util

    missing = [name for name in ("grpc", "cryptography") if importlib.util.find_spec(name) is None]
    if missing:
        packages = {"grpc": "grpcio"}
        raise Misuse(
            "MTH-0961",
            f"nodes talk over gRPC with certificates, and {', '.join(packages.get(m, m) for m in missing)} is missing",
            hint="pip install 'mithridate[byzantine]'",
        )


def _wished(nodes: NodeOptions, protocol: ProtocolOptions, training: TrainingOptions) -> "ClusterConfig":
    from mithridate.byzantine.making import Wish, make_cluster, method_of

    peers = protocol.protocol == "p2p" or (protocol.protocol is None and nodes.servers == 0)
    group = "peers" if peers else "workers"
    data = training.data
    model = training.model or ("mlp" if data in (None, "digits") else "lenet")
    given: list[tuple[str, tuple[str, ...], Any]] = [
        ("--variant", ("variant",), protocol.variant),
        ("--rule", ("rule",), None if protocol.rule is None else method_of(protocol.rule)),
        ("--pre", ("pre",), None if protocol.pre is None else [method_of(name) for name in protocol.pre]),
        ("--f", (group, "f"), protocol.f),
        ("--quorum", (group, "quorum"), protocol.quorum),
        ("--f-servers", ("servers", "f"), protocol.f_servers),
        ("--gather-every", ("gather_every",), protocol.gather_every),
        ("--agreement", ("agreement", "kind"), protocol.agreement),
        ("--broadcast", ("agreement", "broadcast"), protocol.broadcast),
        ("--gradient-rounds", ("agreement", "gradient_rounds"), protocol.gradient_rounds),
        ("--model-rounds", ("agreement", "model_rounds"), protocol.model_rounds),
        ("--data", ("data", "source"), data),
        ("--split", ("data", "split"), training.split),
        ("--model", ("model",), model),
        ("--steps", ("training", "steps"), training.steps),
        ("--batch", ("training", "batch"), training.batch),
        ("--lr", ("training", "lr"), training.lr),
        ("--momentum", ("training", "momentum"), training.momentum),
        ("--deadline", ("deadlines", "round"), training.deadline),
        ("--seed", ("seed",), training.seed),
    ]
    values: dict[str, Any] = {"omniscient": not nodes.blind}
    flags: dict[tuple[str, ...], str] = {}
    for flag, place, value in given:
        if value is None:
            continue
        flags[place] = flag
        section = values
        for part in place[:-1]:
            section = section.setdefault(part, {})
        section[place[-1]] = value
    server_attack = nodes.server_attack or ("reverse" if nodes.byzantine_servers else None)
    return make_cluster(
        Wish(
            servers=nodes.servers,
            workers=nodes.workers,
            byzantine_workers=nodes.byzantine_workers,
            byzantine_servers=nodes.byzantine_servers,
            attack=None if nodes.attack is None else method_of(nodes.attack),
            server_attack=None if server_attack is None else method_of(server_attack),
            protocol=protocol.protocol,
            values=values,
            flags=flags,
        )
    )


def _name(cluster: "ClusterConfig") -> str:
    """Return the run folder's name: the same cluster gives the same folder, another one another."""
    digest = hashlib.sha256(cluster.model_dump_json().encode()).hexdigest()[:8]
    return f"byzantine-{cluster.protocol}-{cluster.method_name}-{digest}"
