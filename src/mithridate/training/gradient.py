"""From a batch to the step's vector: the cheapest legal path to the evidence that the combiner needs.

    MEAN   one backward pass of sum_i w_i l_i
    NORMS  row norms in chunks, then one backward pass of sum_i (c_i w_i) l_i
    GRAM   the rows once, then what the rule makes of their inner products
    ROWS   the rows once, then the rule

Robust rules give every row one vote. A row of an example is then the gradient of n w_i l_i, so that the mean of the
rows is what MEAN gives whatever the weights; a worker's row is the gradient of its own weighted mean loss.

Shapes: b examples, n rows, d parameters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad, vmap

from mithridate.aggregation._base import AbstractNormCombiner, Evidence, State
from mithridate.aggregation.adversaries._base import Rule
from mithridate.aggregation.combine import combine
from mithridate.numerics.flat import FlatModule
from mithridate.numerics.row_view import RowView
from mithridate.training._base import Batch, Forward, Rng
from mithridate.training.server_momentum import ServerMomentum
from mithridate.training.step import Step
from mithridate.training.workers import worker_rows

_EXAMPLES_AT_ONCE = 64


@dataclass(frozen=True)
class Gradient:
    """Computes the vector of a step for one network.

    Attributes:
        step: The stages.
        net: The network behind one flat vector.
        autocast: Wraps a forward pass in the plan's precision.
    """

    step: Step
    net: FlatModule
    autocast: Callable[[Forward], Forward]

    def __call__(
        self, batch: Batch, weights: Float[Tensor, " b"], states: dict[str, State], rng: Rng, count: int
    ) -> tuple[Float[Tensor, " d"], Float[Tensor, ""]]:
        """Return the combined vector and the batch's weighted mean loss (detached); `states` gets the new states."""
        if not self.step.needs_rows:
            return self._mean(batch, weights, states)
        if self.step.rows.of == "example" and self.step.combine.evidence == Evidence.NORMS and not self.step.rows.maps:
            return self._clipped(batch, weights, states, rng, count)
        rows, prior, loss = self._rows(batch, weights, states)
        for row_map in self.step.rows.maps:
            key = f"rows/{row_map.name}"
            rows, states[key] = row_map.map_rows(rows, states[key], rng.child(key)(count))
        if hostile := self.step.rows.hostile:
            key = f"rows/{hostile.name}"
            gen, rule = rng.child(key)(count), self._rule(states["combine"], rng.child("adversary")(count))
            rows, states[key] = hostile.submit(rows, states[key], gen, rule)
        return self._combined(rows, prior, states, rng(count)), loss

    def _mean(
        self, batch: Batch, weights: Float[Tensor, " b"], states: dict[str, State]
    ) -> tuple[Float[Tensor, " d"], Float[Tensor, ""]]:
        losses = self.step.loss.losses(self.autocast(self.net.module), batch)
        weights, states["weigh"] = self.step.weigh.weigh(losses.detach(), batch, weights, states["weigh"])
        return self._backward(weights, losses)

    def _backward(
        self, weights: Float[Tensor, " b"], losses: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, " d"], Float[Tensor, ""]]:
        self.net.grads.zero_()
        total = torch.dot(weights.to(losses.dtype), losses)
        total.backward()  # type: ignore[no-untyped-call]
        return self.net.grads, total.detach()

    def _clipped(
        self, batch: Batch, weights: Float[Tensor, " b"], states: dict[str, State], rng: Rng, count: int
    ) -> tuple[Float[Tensor, " d"], Float[Tensor, ""]]:
        """Norms first, never all rows at once; then a weighted backward pass."""
        rule = self.step.combine
        assert isinstance(rule, AbstractNormCombiner)
        losses = self.step.loss.losses(self.autocast(self.net.module), batch)
        weights, states["weigh"] = self.step.weigh.weigh(losses.detach(), batch, weights, states["weigh"])
        norms = torch.cat([rows.norm(dim=1) for rows in self._example_rows(batch)])
        scaled, states["combine"] = rule.weights(norms, weights, states["combine"])
        vector, _ = self._backward(scaled, losses)
        return rule.finish(vector, len(norms), rng(count)), torch.dot(weights, losses.detach())

    def _rows(
        self, batch: Batch, weights: Float[Tensor, " b"], states: dict[str, State]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, " w"], Float[Tensor, ""]]:
        """Materialise the rows that are computed, and the weight that each of all rows has in the plain mean."""
        if self.step.rows.of == "worker":
            return worker_rows(self.step, self.net, self.autocast, batch, weights, states)
        with torch.no_grad():
            losses = self.step.loss.losses(self.autocast(self.net.module), batch)
        weights, states["weigh"] = self.step.weigh.weigh(losses, batch, weights, states["weigh"])
        rows = torch.cat(list(self._example_rows(batch)))
        if self.step.combine.evidence >= Evidence.GRAM:
            rows.mul_((len(rows) * weights).to(rows.dtype)[:, None])
        return rows, weights, torch.dot(weights, losses)

    def _example_rows(self, batch: Batch) -> Iterator[Float[Tensor, "_ d"]]:
        """Yield the gradients of single examples' losses, a chunk at a time."""

        def loss_of_one(flat: Tensor, one: dict[str, Tensor]) -> Tensor:
            def forward(x: Tensor) -> Tensor:
                logits: Tensor = functional_call(self.net.module, self.net.views(flat), (x,))
                return logits

            single = Batch(
                index=one["index"][None],
                x=one["x"][None],
                labels=one["labels"][None],
                columns={name: value[None] for name, value in one.items() if name not in ("index", "x", "labels")},
            )
            return self.step.loss.losses(self.autocast(forward), single)[0]

        columns = {**batch.columns, "index": batch.index, "x": batch.x, "labels": batch.labels}
        for start in range(0, len(batch.x), _EXAMPLES_AT_ONCE):
            part = {name: value[start : start + _EXAMPLES_AT_ONCE] for name, value in columns.items()}
            yield vmap(grad(loss_of_one), in_dims=(None, 0))(self.net.values, part)

    def _rule(self, state: State, gen: torch.Generator) -> Rule:
        """Return the rule as a function of the rows, for adversaries that try it out; `gen` is not the step's own."""
        rule = self.step.combine
        rule, state = (rule.rule, state["rule"]) if isinstance(rule, ServerMomentum) else (rule, state)

        def aggregated(rows: Tensor) -> Tensor:
            if rule.evidence == Evidence.MEAN:
                return rows.mean(0)
            return combine(RowView.of(rows), rule, state=state, gen=gen)[0]

        return aggregated

    def _combined(
        self, rows: Float[Tensor, "n d"], prior: Float[Tensor, " n"], states: dict[str, State], gen: torch.Generator
    ) -> Float[Tensor, " d"]:
        rule = self.step.combine
        if rule.evidence == Evidence.MEAN:
            return prior.to(rows.dtype) @ rows
        vector, states["combine"] = combine(RowView.of(rows), rule, state=states["combine"], gen=gen, prior=prior)
        return vector
