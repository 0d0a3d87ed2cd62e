"""The self-check says beforehand whether the test will show anything."""

import json
from fractions import Fraction

import pytest

from mithridate.core.errors import Misuse
from mithridate.data.sources import load
from mithridate.ownership.keys import KeySpec, derive
from mithridate.ownership.marking import Marking, mark
from mithridate.ownership.planning import HitTest
from mithridate.ownership.selfcheck import Inquiry, count_hits, selfcheck
from mithridate.ownership.significance import binomial_tail
from mithridate.training.contracts import Options, contract
from mithridate.training.loop import train

SPEC = KeySpec(keys=5, topk=1, classes=10, side=8, channels=1, height=8, width=8)


def test_it_counts_and_plans_as_the_test_does():
    digits, told = load("digits"), []
    plan = contract("digits-mlp40", digits, "mlp-w32", Options(epochs=4))
    keys = derive(b"s" * 32, b"", SPEC)
    net = train(plan, 9)
    marked = mark(digits.train, keys, [net], Marking(budget=20, epsilon=0.3, steps=25))
    how, guilty = Inquiry(victims=1, topk=2, alpha=0.05), marked.apply(digits.train)
    found = selfcheck(plan, guilty, keys, how, test=digits.test, tell=told.append)
    assert [each.guilty for each in found.trials] == [True, False]
    assert found.trials[0].p_value == binomial_tail(found.trials[0].hits, keys=5, topk=2, classes=10)
    assert found.hit_rate == found.trials[0].hits / 5
    assert found.power == HitTest(topk=2, classes=10, alpha=0.05).power(5, found.hit_rate)
    assert found.power_low <= found.power
    assert abs(found.accuracy_cost) < 0.1
    assert told[-1]["done"] == 1
    plain = json.loads(json.dumps(found.to_json()))
    assert Fraction(plain["trials"][0]["p_value_exact"]) == found.trials[0].p_value
    with pytest.raises(Misuse, match="victims"):
        Inquiry(victims=0)


def test_hits_grow_with_the_answers_that_count():
    digits = load("digits")
    net = train(contract("digits-mlp40", digits, "mlp-w32", Options(epochs=1)), 0)
    keys = derive(b"s" * 32, b"", SPEC)
    hits = [count_hits(net, keys, topk=topk) for topk in range(1, 11)]
    assert hits == sorted(hits) and hits[-1] == 5
