"""The flawed test of the released code: labels without replacement, p-values as if they were independent.

    claimed   P( Bin(K, 1/C) >= h )
    actual    P( at least h hits ) when K distinct labels are drawn and a model gives K distinct answers:
              sum over j >= h of the law with factorial moments  E[ C(H, j) ] = C(K, j) (C - j)! / C!

An innocent model that answers all keys differently (diverse, as on noise) is accused more often than claimed: at
K = C = 10, at least 7 hits come 8.7 times as often. Constant answers hit at most once. The test of `significance` draws
labels with replacement, for which the binomial law holds whatever the model answers.
"""

import math
from fractions import Fraction

from mithridate.core.errors import Misuse
from mithridate.ownership.significance import binomial_tail


def claimed(hits: int, *, keys: int, classes: int) -> Fraction:
    """Return the p-value that the released code reports."""
    return binomial_tail(hits, keys=keys, topk=1, classes=classes)


def actual(hits: int, *, keys: int, classes: int) -> Fraction:
    """Return the chance of so many hits of an innocent model that answers every key differently.

    Raises:
        Misuse: MTH-1045, there are not so many different labels.
    """
    if not 0 <= hits <= keys <= classes:
        raise Misuse("MTH-1045", f"{keys} different labels of {classes} classes cannot have {hits} hits")
    moments = [
        Fraction(math.comb(keys, j) * math.factorial(classes - j), math.factorial(classes)) for j in range(keys + 1)
    ]

    def exactly(h: int) -> Fraction:
        return sum(((-1) ** (j - h) * math.comb(j, h) * moments[j] for j in range(h, keys + 1)), Fraction(0))

    return sum((exactly(h) for h in range(hits, keys + 1)), Fraction(0))
