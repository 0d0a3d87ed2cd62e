"""Preconditions: every one holds at its bound, fails one below it, and says its numbers."""

import math

import pytest

from mithridate.aggregation.aggregate import named_rule
from mithridate.aggregation.names import RULES
from mithridate.byzantine import quorums
from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse


@pytest.mark.parametrize(("rule", "nodes"), [("mda", 3), ("multi-krum", 3), ("krum", 3), ("multi-bulyan", 5)])
@pytest.mark.parametrize("f", [1, 2, 3])
def test_the_bound_on_nodes_is_sharp(rule: str, nodes: int, f: int) -> None:
    plus = 1 if rule == "mda" else 3
    enough = nodes * f + plus
    quorums.check_rule(rule, nodes=enough, f=f, quorum=enough - f)
    assert quorums.largest_f(enough, rule) == f
    assert quorums.largest_f(enough - 1, rule) == f - 1
    with pytest.raises(Misuse, match=rf"{rule} needs .* rows for f = {f}, and {enough - 1 - f} of") as found:
        quorums.check_rule(rule, nodes=enough - 1, f=f, quorum=enough - 1 - f)
    assert found.value.code == "MTH-0952"
    assert f"f = {f} takes {enough} workers" in found.value.hint


@pytest.mark.parametrize("f", [0, 1, 2, 3])
@pytest.mark.parametrize("rule", sorted(set(RULES.names()) - {"mean", "clip-noise", "dnc", "smea"}))
def test_what_is_checked_without_torch_is_what_the_rules_check(rule: str, f: int) -> None:
    if f == 0 and rule in ("dnc",):
        pytest.skip("f is at least one there")
    combiner = named_rule(rule, f=f)
    need = quorums.rule_need(rule).rows(f)
    combiner.check(max(1, need))
    if need > 1:
        with pytest.raises(Misuse):
            combiner.check(need - 1)


def test_the_command_of_the_issue_declares_what_the_rule_bears() -> None:
    # 10 workers and Multi-Bulyan: f = 2 needs 11 rows and there are 8 at the quorum; f = 1 needs 7 of 9.
    assert quorums.largest_f(10, "multi-bulyan") == 1
    quorums.check_rule("multi-bulyan", nodes=10, f=1, quorum=9)
    with pytest.raises(Misuse, match=r"4f \+ 3 = 11 rows for f = 2, and 8 of 10 workers"):
        quorums.check_rule("multi-bulyan", nodes=10, f=2, quorum=8)


@pytest.mark.parametrize(("variant", "plus"), [("byzsgd", 2), ("guanyu", 3)])
def test_servers(variant: str, plus: int) -> None:
    for f in range(4):
        n = 3 * f + plus
        quorums.check_servers(servers=n, f=f, quorum=n - f, variant=variant)
        assert quorums.largest_server_f(n, variant) == f
        with pytest.raises(Misuse, match=rf"{n - 1} servers cannot bear f = {f}"):
            quorums.check_servers(servers=n - 1, f=f, quorum=1, variant=variant)
        with pytest.raises(Misuse, match=r"quorum of \d+ servers is too small|must be in \[1"):
            quorums.check_servers(servers=n, f=f, quorum=2 * f + plus - 1, variant=variant)
        with pytest.raises(Misuse, match=rf"must be in \[1, n - f\] = \[1, {n - f}\], got {n - f + 1}"):
            quorums.check_servers(servers=n, f=f, quorum=n - f + 1, variant=variant)


def test_workers_of_guanyu_need_what_multi_krum_needs() -> None:
    quorums.check_workers(workers=9, f=2, quorum=7, rule="multi-krum", variant="guanyu")
    with pytest.raises(Misuse, match=r"8 workers cannot bear f = 2 liars: 3f \+ 3 = 9"):
        quorums.check_workers(workers=8, f=2, quorum=6, rule="multi-krum", variant="guanyu")
    with pytest.raises(Misuse, match="the mean bears no liar"):
        quorums.check_workers(workers=10, f=1, quorum=9, rule="mean")


@pytest.mark.parametrize(
    ("agreement", "broadcast", "per_liar"),
    [("mda", "plain", 6), ("rb-tm", "reliable", 3), ("icwtm", "consistent", 4), ("icwtm", "plain", 5)],
)
def test_peers(agreement: str, broadcast: str, per_liar: int) -> None:
    for f in (1, 2):
        n = per_liar * f + 1
        quorums.check_peers(peers=n, f=f, agreement=agreement, broadcast=broadcast)
        with pytest.raises(Misuse, match=rf"{per_liar}f \+ 1 = {n} peers for f = {f}.*, got {n - 1}") as found:
            quorums.check_peers(peers=n - 1, f=f, agreement=agreement, broadcast=broadcast)
        assert found.value.code == "MTH-0955"


def test_reliable_trimmed_means_need_reliable_broadcast() -> None:
    with pytest.raises(Misuse, match="rb-tm stands on reliable broadcast"):
        quorums.check_peers(peers=10, f=1, agreement="rb-tm", broadcast="consistent")


@pytest.mark.parametrize(("n", "f", "factor", "drift"), [(13, 2, 8 / 9, 6.78), (7, 1, 0.8, 3.33)])
def test_bounds_of_minimum_diameter(n: int, f: int, factor: float, drift: float) -> None:
    found = quorums.bounds("mda", peers=n, f=f)
    assert found.factor == pytest.approx(factor)
    assert found.drift == pytest.approx(drift, abs=0.01)
    assert found.proven
    for halvings in (1, 3, 8):
        rounds = quorums.agreement_rounds("mda", halvings=halvings, peers=n, f=f)
        assert factor**rounds <= 2.0**-halvings < factor ** (rounds - 1)


def test_rounds_of_the_other_agreements() -> None:
    assert quorums.agreement_rounds("rb-tm", halvings=0, peers=10, f=1) == 0
    assert quorums.agreement_rounds("rb-tm", halvings=5, peers=10, f=0) == 1
    factor, honest = 1 / 8, 9
    rounds = quorums.agreement_rounds("rb-tm", halvings=4, peers=10, f=1)
    assert factor**rounds * math.sqrt(honest) <= 2.0**-5 < factor ** (rounds - 1) * math.sqrt(honest)
    assert not quorums.bounds("icwtm", peers=9, f=2).proven


def test_every_code_of_the_room_is_explained() -> None:
    for number in range(950, 964):
        assert f"MTH-{number:04d}" in CODES


@pytest.mark.parametrize("rule", ["mean", "clip-noise"])
def test_means_bear_nobody(rule: str) -> None:
    assert quorums.largest_f(10, rule) == 0
    quorums.check_rule(rule, nodes=10, f=0, quorum=10)
    with pytest.raises(Misuse, match="bears no liar") as found:
        quorums.check_rule(rule, nodes=10, f=1, quorum=9)
    assert found.value.code == "MTH-0952"
