"""SSD over a grid of thresholds, of which the best is chosen by data that a defender has.

    alpha in {0.1, 1, 10, 50, 100, 500, 10^3, 10^4, 10^5, 10^6},   lambda in alpha {0.1, 0.5, 1, 5, 10}
    chosen: the largest  keep (1 - max(acc(S_f), rho)),  keep the accuracy on the guard's data

Paper    the grid of Goel et al., Corrective Machine Unlearning (TMLR 2024), and its code; the dampening of Foster et
         al. (AAAI 2024); the criterion is the proxy by which REM (Schoepf et al., 2025) chooses its snapshot.
Departs  the rule by which Goel et al. chose is not known to us; ours looks at no test data, and where the guard is on
         only at pairs within its budget. Importances as in ssd-fixed. Every pair begins from the given model.
"""

from dataclasses import dataclass

from mithridate.core.params import In, param
from mithridate.numerics.importance import Importance
from mithridate.unlearning._base import Healed, HealKit
from mithridate.unlearning._dampening import dampen
from mithridate.unlearning._frame import Session, accuracy
from mithridate.unlearning._ptn import AbstractDampener
from mithridate.unlearning._settling import settle

ALPHAS = (0.1, 1.0, 10.0, 50.0, 100.0, 500.0, 1e3, 1e4, 1e5, 1e6)
STRENGTHS = (0.1, 0.5, 1.0, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class SsdGrid(AbstractDampener):
    """Dampening with the best of fifty pairs of constants."""

    rho: float = param(0.2, within=In(0.0, 1.0), doc="accuracy on suspects below which less counts for nothing")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Try all pairs, keep one; see `AbstractHealer.heal`."""
        session = self.begin(kit, seed=seed)
        forget, keep = self.importances(session, seed=seed)
        pairs = [(alpha, alpha * strength) for alpha in ALPHAS for strength in STRENGTHS]
        best: tuple[float, float, float] | None = None
        for number, (alpha, lam) in enumerate(pairs, start=1):
            score = self._score(session, forget, keep, alpha, lam)
            if score is not None and (best is None or score > best[0]):
                best = (score, alpha, lam)
            kit.progress({"what": "grid", "done": number / len(pairs)})
        _restore(session)
        count = 0
        if best is None:
            session.warn("no pair of the grid is within the guard's budget")
        else:
            count = dampen(session.model, forget, keep, alpha=best[1], lam=best[2])
        size = sum(value.numel() for value in forget.values())
        details = {
            "alpha": best[1] if best else None,
            "lambda": best[2] if best else None,
            "score": best[0] if best else None,
            "frac_dampened": count / size,
            "importance": self.kind,
        }
        return settle(session, session.model, method=self.label(), details=details, steps=len(pairs))

    def _score(self, session: Session, forget: Importance, keep: Importance, alpha: float, lam: float) -> float | None:
        """Return what a pair is worth, or None if the guard does not allow it."""
        _restore(session)
        if dampen(session.model, forget, keep, alpha=alpha, lam=lam) == 0:
            kept = session.watch.before / len(session.watch.data)
            return kept * (1 - max(session.suspects_before, self.rho))
        if not session.watch.allows(session.model):
            return None
        kept = session.watch.before / len(session.watch.data) - session.watch.loss(session.model)
        return kept * (1 - max(accuracy(session.model, session.kit.suspects), self.rho))


def _restore(session: Session) -> None:
    given = dict(session.original.named_parameters())
    for name, p in session.model.named_parameters():
        p.data.copy_(given[name].data)


METHOD = SsdGrid
