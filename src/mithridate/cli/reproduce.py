"""`mithridate reproduce`: the claim of a paper, what was measured here, and every departure."""

from typing import Annotated

import typer

from mithridate.cli._options import OutOption, ReuseOption, VictimOptions, configured
from mithridate.cli._session import Session
from mithridate.cli._verb import verb

SCALES = ("smoke", "cpu", "paper")


@verb
def reproduce(
    session: Session,
    name: Annotated[str, typer.Argument(help="A paper; `mithridate list papers`.")],
    scale: Annotated[
        str,
        typer.Option(
            "--scale", metavar="NAME", help="smoke: minutes, offline; cpu: about an hour; paper: an accelerator."
        ),
    ] = "smoke",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The one seed of the run.", min=0)] = 0,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:N or mps.")] = "cpu",
    out: OutOption = None,
    reuse: ReuseOption = None,
) -> None:
    """Run the scaled or full experiment of a paper and report claim, measurement with interval, and departures."""
    from mithridate.cli.audit import RUNS, typed
    from mithridate.core.registry import Registry, unknown_name

    papers = Registry("mithridate.papers", "paper", None)
    if name not in papers.names():
        raise unknown_name("paper", name, tuple(papers.names()))
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    configured(None, VictimOptions(seed=seed, device=device))  # which refuses what is no seed or no device
    folder = out or RUNS / f"{name}-{scale}-{seed}"
    session.work_in(folder)
    from mithridate.cli._views import show_run
    from mithridate.papers._run import reproduce as run

    document = run(
        name,
        scale=scale,
        folder=folder,
        seed=seed,
        device=device,
        progress=session.progress(),
        command=typed(),
        reused=reuse,
    )
    show_run(session, document, folder)
    raise typer.Exit(int(document["verdict"]["exit_code"]))
