"""SSMW and MSMW in the simulator: they converge under attack, their baselines do not, and vanilla is plain SGD."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster_kit import SIZE, Quadratic, cluster_of, diameter, models, nodes, play

from mithridate.byzantine.protocols._base import GENERATION, Post
from mithridate.byzantine.source import Vector
from mithridate.byzantine.transport._base import QuorumLost
from mithridate.byzantine.transport.schedules import Favour, Punctual
from mithridate.byzantine.transport.simulator import Crash
from mithridate.core.errors import Misuse

ALIE = {"name": "alie", "options": {"z": 1.5}}


def bad_workers(servers: int, workers: int, count: int, behaviour: Any) -> dict[int, Any]:
    return {servers + workers - 1 - n: behaviour for n in range(count)}


def test_vanilla_is_gradient_descent_on_the_mean() -> None:
    cluster = cluster_of("ssmw", nodes(servers=1, workers=4), variant="vanilla")
    found = models(play(cluster))[0]
    workers = [Quadratic(cluster, node) for node in cluster.ids("worker")]
    x = np.full(SIZE, 5.0, np.float32)
    for step in range(30):
        rows = []
        for worker in workers:
            worker.load(x)
            rows.append(worker.gradient(step)[0])
        x = x - np.float32(0.2) * np.mean(rows, 0)
    np.testing.assert_allclose(found, x, atol=1e-5)


@pytest.mark.parametrize("attack", ["sign-flip-mean", "nan", ALIE, "silent", "replay", "garbage"])
def test_one_trusted_server_bears_two_liars_of_ten(attack: Any) -> None:
    listed = nodes(servers=1, workers=10, bad=bad_workers(1, 10, 2, attack))
    cluster = cluster_of("ssmw", listed, rule="multi-krum", omniscient=True)
    assert (cluster.f("worker"), cluster.quorum("worker")) == (2, 8)
    assert np.abs(models(play(cluster))).max() < 0.5


@pytest.mark.parametrize("attack", ["nan", {"name": "reverse", "options": {"factor": 100.0}}])
def test_the_mean_collapses_where_it_should(attack: Any) -> None:
    listed = nodes(servers=1, workers=10, bad=bad_workers(1, 10, 2, attack))
    found = models(play(cluster_of("ssmw", listed, variant="vanilla", omniscient=True)))
    assert not np.abs(found).max() < 100.0


def test_more_broken_rows_than_declared_are_an_error_that_names_the_nodes() -> None:
    listed = nodes(servers=1, workers=10, bad=bad_workers(1, 10, 3, "nan"))
    cluster = cluster_of("ssmw", listed, rule="multi-krum", omniscient=True, workers={"f": 1, "quorum": 9})
    assert "3 of 10 workers are Byzantine and f = 1 is declared" in cluster.warnings()[0]
    failure = play(cluster).failures[0]
    assert isinstance(failure, Misuse)
    assert failure.code == "MTH-0963"
    assert "8, 9, 10" in failure.message


@pytest.mark.parametrize("gather_every", [1, 5])
@pytest.mark.parametrize("server_attack", ["reverse", "random-model", "equivocate"])
def test_replicated_servers_bear_a_lying_server_and_lying_workers(gather_every: int, server_attack: str) -> None:
    bad = {4: server_attack} | bad_workers(5, 10, 3, ALIE)
    cluster = cluster_of("msmw", nodes(servers=5, workers=10, bad=bad), omniscient=True, gather_every=gather_every)
    assert (cluster.f("server"), cluster.quorum("server"), cluster.quorum("worker")) == (1, 4, 7)
    rows = models(play(cluster))
    assert np.abs(rows).max() < 0.5
    assert len(rows) >= 4


def test_pre_aggregators_apply_before_the_mean_too() -> None:
    """Clipped to a norm of 1e-6, no gradient moves the model."""
    clipping = {"name": "clipping", "options": {"bound": 1e-6}}
    listed = nodes(servers=1, workers=4)
    moved, still = (
        models(play(cluster_of("ssmw", listed, rule="mean", pre=pre), schedule=Punctual())) for pre in ([], [clipping])
    )
    assert np.abs(moved).max() < 0.5
    assert np.abs(still - 5).max() < 1e-3


def test_means_of_models_do_not_bear_a_lying_server() -> None:
    bad = {4: "reverse"}
    cluster = cluster_of("msmw", nodes(servers=5, workers=6, bad=bad), variant="crash-tolerant", servers={"f": 1})
    assert not np.abs(models(play(cluster, schedule=Punctual()))).max() < 5.0


def test_guanyu_uses_multi_krum_with_its_own_thresholds() -> None:
    bad = {5: "reverse"} | bad_workers(6, 9, 2, "sign-flip-mean")
    cluster = cluster_of("msmw", nodes(servers=6, workers=9, bad=bad), variant="guanyu", omniscient=True)
    assert cluster.rule_method.name == "multi-krum"
    assert (cluster.f("server"), cluster.quorum("server")) == (1, 5)
    assert (cluster.f("worker"), cluster.quorum("worker")) == (2, 7)
    assert np.abs(models(play(cluster))).max() < 0.5


class Gathers:
    """Records the models before and after each gather of the honest servers."""

    def __init__(self) -> None:
        self.before: dict[int, list[Vector]] = {}
        self.after: dict[int, list[Vector]] = {}

    def watch(self, post: Post) -> None:
        if post.cluster.node(post.me).role != "server" or post.me in post.cluster.byzantine("server"):
            return
        plain = post.median

        def median(rows: list[Vector]) -> Vector:
            result = plain(rows)
            self.before.setdefault(post.at, []).append(post.learner.vector())
            self.after.setdefault(post.at, []).append(result)
            return result

        post.median = median  # type: ignore[method-assign]

    def ratios(self) -> list[float]:
        return [
            _spread(self.after[step]) / _spread(self.before[step]) for step in self.before if _spread(self.before[step])
        ]


def _spread(rows: list[Vector]) -> float:
    return float(np.ptp(np.stack(rows), axis=0).max())


def test_the_median_contracts_the_servers_models_in_expectation() -> None:
    gathers = Gathers()
    cluster = cluster_of("msmw", nodes(servers=5, workers=7, bad={4: "equivocate"}), training={"steps": 60})
    play(cluster, watch=gathers.watch)
    ratios = gathers.ratios()
    assert len(ratios) > 40
    assert float(np.median(ratios)) < 0.9


def test_chosen_delivery_stalls_the_median_as_the_specification_says() -> None:
    # Honest servers at 0, 0, 1, 1 and a liar that says -inf to the first and +inf to the others: each hears its own
    # side, one of the other and the liar, so that every median is its own value.
    from mithridate.byzantine.messages import Frame

    far = np.float32(1e6)
    gathers = Gathers()

    def watch(post: Post) -> None:
        gathers.watch(post)
        node = post.cluster.node(post.me)
        post.learner.load(np.full(SIZE, 0.0 if post.me < 2 else 1.0, np.float32))
        if node.role == "worker":
            post.learner.gradient = lambda step: (np.zeros(SIZE, np.float32), 0.0)  # type: ignore[method-assign]

    class TwoFaced:
        async def say(self, speaker: Any, frame: Frame, to: Any) -> None:
            for peer in to:
                if peer != speaker.me:
                    value = -far if peer < 2 else far
                    await speaker.send(peer, Frame(frame.kind, frame.round, 0, speaker.me, np.full(SIZE, value)))

    def with_liar(post: Post) -> None:
        watch(post)
        if post.me == 4:
            post.mouth = TwoFaced()  # type: ignore[assignment]

    schedule = Favour(
        first={0: (1, 4, 2), 1: (0, 4, 2), 2: (3, 4, 0), 3: (2, 4, 0)}, kinds=frozenset({"gather"}), later=0.5
    )
    cluster = cluster_of("msmw", nodes(servers=5, workers=4, bad={4: "reverse"}), training={"steps": 8})
    stalled = models(play(cluster, watch=with_liar, schedule=schedule))
    assert diameter(stalled) == pytest.approx(np.sqrt(SIZE))
    cured = models(play(cluster, watch=with_liar))
    assert diameter(cured) < np.sqrt(SIZE) / 4


def test_a_lost_quorum_says_who_is_missing_and_saves_the_state(tmp_path: Path) -> None:
    bad = bad_workers(1, 4, 2, {"name": "crash", "options": {"at": 13}})
    listed = nodes(servers=1, workers=4, bad=bad)
    cluster = cluster_of("ssmw", listed, rule="mda", workers={"f": 1}, deadlines={"start": 9.0, "round": 9.0})
    result = play(cluster, folder=tmp_path)
    failure = result.failures[0]
    assert isinstance(failure, QuorumLost)
    assert int(failure.exit_code) == 4
    assert set(failure.missing) == {3, 4}
    assert (tmp_path / "node-0" / "step-13" / "manifest.json").is_file()


def test_a_restarted_trusted_server_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    cluster = cluster_of("ssmw", nodes(servers=1, workers=5), rule="mda", checkpoint_every=5)
    result = play(cluster, folder=tmp_path, crashes=[Crash(node=0, at=0.3, restart=0.6)])
    assert np.abs(models(result)).max() < 0.5
    outcome = result.results[0]
    assert outcome is not None
    assert 0 < outcome.meter.steps < 29, "the first steps were done before the crash"
    assert max(stats.claimed for stats in result.stats[0].values()) >= GENERATION


def test_a_restarted_worker_takes_part_again(tmp_path: Path) -> None:
    cluster = cluster_of(
        "msmw", nodes(servers=5, workers=4), training={"steps": 60}, workers={"f": 1}, servers={"f": 1}
    )
    seen: dict[int, int] = {}

    def watch(post: Post) -> None:
        if post.me == 8 and post.transport.incarnation:
            post.tell = lambda event: seen.__setitem__(event["step"], 1) if event["event"] == "step" else None

    result = play(cluster, folder=tmp_path, crashes=[Crash(node=8, at=0.5, restart=0.9)], watch=watch)
    assert np.abs(models(result)).max() < 0.5
    assert len(seen) > 10
    assert min(seen) > 1, "it did not begin again"


def test_a_restarted_server_catches_up_with_the_median_of_the_others(tmp_path: Path) -> None:
    cluster = cluster_of("msmw", nodes(servers=5, workers=4), training={"steps": 60})
    told: list[int] = []

    def watch(post: Post) -> None:
        if post.me == 1 and post.transport.incarnation:
            post.tell = lambda event: told.append(event["step"]) if event["event"] == "rejoined" else None

    result = play(cluster, folder=tmp_path, crashes=[Crash(node=1, at=0.6, restart=1.2)], watch=watch)
    rows = models(result)
    assert len(rows) == 5
    assert np.abs(rows).max() < 0.5
    assert len(told) == 1
    assert told[0] > 10


def test_servers_that_were_all_stopped_go_on_from_a_common_checkpoint(tmp_path: Path) -> None:
    cluster = cluster_of("msmw", nodes(servers=5, workers=4), training={"steps": 60}, checkpoint_every=5)
    told: dict[int, int] = {}

    def watch(post: Post) -> None:
        if post.transport.incarnation:
            post.tell = lambda event: told.__setitem__(post.me, event["step"]) if event["event"] == "rejoined" else None

    everyone = [Crash(node=node.id, at=1.0, restart=1.5) for node in cluster.nodes]
    result = play(cluster, folder=tmp_path, crashes=everyone, watch=watch)
    assert np.abs(models(result)).max() < 0.5
    assert set(told) == {0, 1, 2, 3, 4}
    assert len(set(told.values())) == 1
    assert told[0] % 5 == 0
    assert told[0] > 0
