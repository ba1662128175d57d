"""Means of what the steps since the last line of the log measured, kept on the device until they are read."""

from collections import Counter

import torch
from torch import Tensor

from losses.objective import Objective, Result

PARTS = ("/loss", "/weighted_norm")


class MetricAccumulator:
    """Means over the steps that were taken, and counts of the skipped ones by the term whose gradient was not finite.

    A term that is evaluated at every k-th step has its numbers averaged over those steps; its weight, its part of the
    loss and its weighted gradient norm are divided by k, so that the loss and the gradient shares are those of a term
    evaluated at every step. A line of the log without any of its steps takes these from the last line that had some.

    Reading (`means`, `skipped`, `skipped_in_a_row`) waits for the device; recording never does.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.sums: dict[tuple[str, ...], Tensor] = {}  # by the curves that a step has: their sums, and how many steps
        self.parts: dict[str, float] = {}  # each term's part of the loss and its weighted gradient norm, as last known
        self.skipped_by: dict[str, Tensor] = {}
        self.row = self._zero()

    def record(self, results: list[Result], objective: Objective, norm: Tensor, good: Tensor) -> None:
        """One optimiser step, made of one result per micro-batch.

        `norm` is the model's gradient norm; `good`, a bool scalar, says whether the step was taken.
        """
        curves = self._curves(results, objective, norm)
        values = torch.stack([value.float() for value in (*curves.values(), torch.ones_like(norm))])
        self.sums[tuple(curves)] = self.sums.get(tuple(curves), 0.0) + torch.where(good, values, 0.0)
        self.row = (self.row + 1) * ~good
        explained = self._zero().bool()
        for name in results[0].terms:
            finite = torch.stack(
                [r.terms[name].gradient_norm.isfinite() & r.terms[name].value.isfinite() for r in results]
            )
            at_fault = ~good & ~finite.all()
            self.skipped_by[name] = self.skipped_by.get(name, self._zero()) + at_fault
            explained |= at_fault
        self.skipped_by["model"] = self.skipped_by.get("model", self._zero()) + (~good & ~explained)

    def means(self) -> dict[str, float]:
        """Means since the last call, for one line of the log; empty where every step was skipped."""
        totals, counts = Counter(), Counter()
        for curves, sums in self.sums.items():
            *of_curves, steps = sums.tolist()
            totals.update(dict(zip(curves, of_curves, strict=True)))
            counts.update(dict.fromkeys(curves, steps))
        self.sums = {}
        means = {key: total / counts[key] for key, total in totals.items() if counts[key]}
        self.parts |= {key: means.pop(key) for key in list(means) if key.endswith(PARTS)}
        return _with_shares(means, self.parts) if means else {}

    def skipped(self) -> dict[str, int]:
        """Steps skipped for a gradient that was not finite, by the term at fault; `model`: no term was."""
        return {name: int(count) for name, count in self.skipped_by.items() if int(count)}

    def skipped_in_a_row(self) -> int:
        """How many of the last steps in a row were skipped."""
        return int(self.row)

    def state(self) -> dict[str, object]:
        return {
            "rows": dict(self.sums),
            "parts": dict(self.parts),
            "skipped_by": dict(self.skipped_by),
            "row": self.row,
        }

    def load_state(self, state: dict) -> None:
        def today(curve: str) -> str:  # earlier versions had another name, and did not save "rows" and "parts"
            return curve.replace("/push", "/weighted_norm")

        self.sums = {tuple(map(today, curves)): sums.to(self.device) for curves, sums in state.get("rows", {}).items()}
        self.parts = {today(key): part for key, part in state.get("parts", {}).items()}
        self.skipped_by = {name: count.to(self.device) for name, count in state["skipped_by"].items()}
        self.row = state["row"].to(self.device)

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self.device)

    def _curves(self, results: list[Result], objective: Objective, norm: Tensor) -> dict[str, Tensor]:
        def mean(values: list[Tensor]) -> Tensor:
            return torch.stack(values).mean() if len(values) > 1 else values[0]

        curves = {"gradient_norm": norm}
        for name in results[0].terms:
            term, of_term = objective.terms[name], [r.terms[name] for r in results]
            curves[f"{name}/value"] = mean([t.value for t in of_term])
            curves[f"{name}/weight"] = mean([t.weight for t in of_term]) / term.every
            curves[f"{name}/gradient_norm"] = mean([t.gradient_norm for t in of_term])
            curves[f"{name}/loss"] = mean([t.weight * t.value for t in of_term]) / term.every
            curves[f"{name}/weighted_norm"] = mean([t.weight * t.gradient_norm for t in of_term]) / term.every
            curves |= {f"{name}/{key}": value for key, value in term.logs().items()}
        for pair in results[0].cosines:
            curves[f"cosine/{pair[0]}~{pair[1]}"] = mean([r.cosines[pair] for r in results])
        return curves


def _with_shares(means: dict[str, float], parts: dict[str, float]) -> dict[str, float]:
    """The means with the loss, and with each term's share of the summed weighted gradient norms."""
    norms = {key.removesuffix("/weighted_norm"): part for key, part in parts.items() if key.endswith("/weighted_norm")}
    loss = sum(parts[f"{name}/loss"] for name in norms)
    total = sum(norms.values())
    shares = {f"{name}/gradient_share": norm / total if total > 0 else 0.0 for name, norm in norms.items()}
    return {"loss": loss} | means | shares
