"""Weighs the terms: one gradient at the prediction, one backward through the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn

from losses.expression import Expression
from losses.heads import PixelHead
from losses.options import InvalidSetting, chosen
from losses.reconstruction import Reconstruction
from losses.term import SINGLE_PROCESS, Processes, Term, widened

Scalars = dict[Any, Tensor]  # by term, or by pair of terms

PLAIN = "+"  # no term's name: the sum of the plainly weighted terms
TINY = 1e-30  # keeps 0 / 0 at 0; no gradient norm of a float32 tensor in use comes near


@dataclass
class TermResult:
    """One term at one step, as scalars on the device: its value before the weight; what multiplied it, schedule,
    percentage and the k of `every=k` included; and the L2 norm of the unweighted gradient at the prediction."""

    value: Tensor
    weight: Tensor
    gradient_norm: Tensor


@dataclass
class Result:
    """The weighted sum; its gradient at the prediction, for `prediction.backward`; the terms evaluated at this step;
    and the cosine between the gradients of each two of them, by the pair of names, 0 if one is zero."""

    value: Tensor
    gradient: Tensor
    terms: dict[str, TermResult]
    cosines: dict[tuple[str, str], Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """A weighted sum of terms. Call it with a `Reconstruction` and the step; it returns a `Result`, all detached:

        result = objective(reconstruction, step)
        reconstruction.prediction.backward(result.gradient)
        optimizer.step()
        objective.update(step)

    Each term runs once, on a leaf, in its own precision. Trainable critics accumulate their own gradients in the call
    and take their step at `update`; after `.eval()` they learn nothing. `head` is what the model must predict.

    A term with `every=k` is evaluated, and learns, at steps that are multiples of k, with k times its weight. A
    percentage refers to the plain terms that are evaluated at the same step, each with its weight before the factor k:
    beside terms of every step, or of the same k, it is exact on average over steps.

    If `processes` share a batch in equal parts, values, norms, cosines and weights are those of the whole batch, the
    same in every process. `gradient` is that of the process's own part; the parameters' gradients are to be averaged.

    Args:
        expression: which terms, with which weights.
        terms: name -> term, in the expression's order.
        over: "hidden" (default) or "all": the patches that are compared.
        processes: those that share each batch; by default this one has it whole.
    """

    def __init__(
        self,
        expression: Expression,
        terms: Mapping[str, Term],
        over: str = "hidden",
        processes: Processes = SINGLE_PROCESS,
    ):
        super().__init__()
        chosen("losses.over", over, ("hidden", "all"))
        self.expression, self.over, self.processes = expression, over, processes
        self.terms: Mapping[str, Term] = cast(Any, nn.ModuleDict(terms))
        plain = [t.name for t in expression.terms if not t.share]
        if all(terms[name].every > 1 for name in plain):
            raise InvalidSetting(
                f"losses.{plain[0]}.every={terms[plain[0]].every} leaves steps of '{expression}' without a plainly "
                "weighted term; add one, such as mse"
            )
        self.head = common_head({name: term.head for name, term in terms.items()})

    def forward(self, reconstruction: Reconstruction, step: int = 0) -> Result:
        prediction = reconstruction.prediction
        r = reconstruction.at(widened(prediction.detach()), self.over)
        values, gradients = self._evaluate(r, step)
        values, norms, cosines, weights = self._weigh(values, gradients, step)
        gradient = _weighted_sum(weights, gradients)
        leaf = r.at(r.prediction.requires_grad_(), self.over)
        with torch.enable_grad():
            if leaf.head_loss is not None:
                gradient = gradient + torch.autograd.grad(leaf.head_loss, leaf.prediction)[0]
        self._learn(leaf, step)
        return Result(
            value=_weighted_sum(weights, values),
            gradient=gradient.to(prediction.dtype),
            terms={name: TermResult(values[name], weights[name], norms[name]) for name in values},
            cosines=cosines,
        )

    def loss(self, reconstruction: Reconstruction, step: int = 0) -> Tensor:
        """The weighted sum as one differentiable scalar, for training loops that call `loss.backward()`.

        With percentages it runs the terms twice: the first time to find the weights. Critics accumulate their gradients
        as in a call; call `update` after the step as there.
        """
        r = reconstruction.at(widened(reconstruction.prediction), self.over)
        terms, weights = self._due(step), self._times_interval(self._plain_weights(step, share=False))
        if len(weights) < len(terms):
            *_, weights = self._weigh(*self._evaluate(r, step), step)
        total = _weighted_sum(weights, {name: term.value(r) for name, term in terms.items()})
        if (own := r.head_loss) is not None:
            total = total + own - own.detach()  # the head learns; the value stays the objective's
        self._learn(r, step)
        return total

    def update(self, step: int = 0) -> None:
        """Every trainable critic takes one optimiser step with the gradients accumulated since its last."""
        for term in self._due(step).values():
            term.update(step)

    def provenance(self) -> dict[str, dict[str, str]]:
        """Term -> where its pretrained weights came from, with their checksum."""
        return {name: record for name, term in self.terms.items() if (record := term.provenance())}

    def state(self) -> dict[str, Any]:
        """All that exact resumption needs."""
        return {name: state for name, term in self.terms.items() if (state := term.state())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, saved in state.items():
            self.terms[name].load_state(saved)

    def at_fault(self, result: Result) -> dict[str, Tensor]:
        """Term -> whether it explains a step without a finite gradient, a bool scalar on the device: its own value or
        gradient is not finite, or its weight makes more of it than a million times any term's unweighted gradient."""
        largest = torch.stack([term.gradient_norm for term in result.terms.values()]).max()
        found = {}
        for name, weight, share in (
            (t.name, t.weight, t.share) for t in self.expression.terms if t.name in result.terms
        ):
            term = result.terms[name]
            finite = term.value.isfinite() & term.gradient_norm.isfinite()
            # A percentage's weight follows the plain terms: it is at fault by itself alone.
            pushed = (
                torch.full_like(finite, weight > 1e8) if share else term.weight * term.gradient_norm > 1e6 * largest
            )
            found[name] = ~finite | pushed
        return found

    def _due(self, step: int) -> dict[str, Term]:
        """The terms that are evaluated at `step`."""
        return {name: term for name, term in self.terms.items() if step % term.every == 0}

    def _plain_weights(self, step: int, *, share: bool) -> dict[str, float]:
        """Plain weights, or percentages, of the terms that are evaluated at `step`, without the k of `every=k`."""
        due = self._due(step)
        wanted = [t for t in self.expression.terms if t.share == share and t.name in due]
        return {t.name: t.weight * due[t.name].ramp(step) for t in wanted}

    def _times_interval(self, weights: dict[str, Any]) -> dict[str, Any]:
        """Multiplies the weights of terms that are evaluated at every k-th step by k."""
        return weights | {name: weights[name] * k for name in weights if (k := self.terms[name].every) > 1}

    def _evaluate(self, r: Reconstruction, step: int) -> tuple[Scalars, dict[str, Tensor]]:
        """The terms' values, and their gradients at the prediction; both detached."""
        leaf = r.prediction.detach().requires_grad_()
        values, gradients = {}, {}
        for name, term in self._due(step).items():
            with torch.enable_grad():
                value = term.value(r.at(leaf, self.over))
                (gradients[name],) = torch.autograd.grad(value, leaf)
            values[name] = value.detach()
        return values, gradients

    def _weigh(self, values: Scalars, gradients: Mapping[str, Tensor], step: int) -> tuple[Scalars, ...]:
        """Values, gradient norms, cosines and weights, of the whole batch."""
        some = next(iter(gradients.values()))
        # Filled on the device, not copied there: a copy would wait for it.
        weights = {name: some.new_full((), w) for name, w in self._plain_weights(step, share=False).items()}
        shares = self._plain_weights(step, share=True)
        norms = {name: torch.linalg.vector_norm(g) for name, g in gradients.items()}
        if shares:
            norms[PLAIN] = torch.linalg.vector_norm(_weighted_sum(weights, gradients))
        products = {(a, b): torch.sum(gradients[a] * gradients[b]) for a, b in combinations(gradients, 2)}
        if self.processes.count > 1:
            values, norms, products = _reduced(self.processes, values, norms, products)
        for name, share in shares.items():
            wanted, norm = share / 100 * norms[PLAIN], norms[name]
            weights[name] = torch.where(norm > 0, wanted / norm, torch.zeros_like(norm))
        cosines = {(a, b): p / (norms[a] * norms[b]).clamp_min(TINY) for (a, b), p in products.items()}
        return values, norms, cosines, self._times_interval(weights)

    def _learn(self, r: Reconstruction, step: int) -> None:
        """Critics accumulate their gradients, unless the objective is in evaluation."""
        detached = r.at(r.prediction.detach(), self.over)
        for term in self._due(step).values() if self.training else ():
            term.learn(detached)


def common_head(heads: Mapping[str, PixelHead]) -> PixelHead:
    """The one head, of terms by name, that is not the plain pixel head, if any: every term reads pixels. Two different
    ones raise InvalidSetting, as does one without pixels beside a term that reads them."""
    special = {head.name: head for head in heads.values() if type(head) is not PixelHead}
    if len(special) > 1:
        raise InvalidSetting(f"the terms need different heads ({', '.join(special)}); use them in separate runs")
    head = next(iter(special.values()), PixelHead())
    if not head.has_pixels and (reading := [name for name, other in heads.items() if type(other) is PixelHead]):
        raise InvalidSetting(f"{head.name} predicts no pixels, which {reading[0]} reads; use them in separate runs")
    return head


def _weighted_sum(weights: Mapping[str, Any], of_terms: Mapping[str, Tensor]) -> Tensor:
    """Over the terms that have a weight; it does not start from a tensor of zeros, which would be one pass more."""
    return reduce(torch.add, (weight * of_terms[name] for name, weight in weights.items()))


def _reduced(processes: Processes, *local: Scalars) -> list[Scalars]:
    """Values, gradient norms and dot products of the batch that `processes` share in equal parts; one all-reduce.

    Each process has the mean over its part, so the whole value is their mean, and the whole gradient their gradients
    concatenated and divided by their number: squared norms and dot products add up.
    """
    n = processes.count
    stacked = [torch.stack(list(scalars.values())) if scalars else torch.zeros(0) for scalars in local]
    values, norms, products = (s.to(stacked[0].device, torch.float64) for s in stacked)
    packed = torch.cat([values / n, (norms / n).square(), products / n**2])
    processes.all_reduce([packed])
    values, squares, products = packed.split([len(scalars) for scalars in local])
    totals = (values, squares.sqrt(), products)
    return [
        dict(zip(scalars, total.to(s.dtype).unbind(), strict=True))
        for scalars, s, total in zip(local, stacked, totals, strict=True)
    ]
