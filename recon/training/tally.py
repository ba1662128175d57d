"""What happened since the last line of the log, kept on the device until somebody prints."""

import torch
from torch import Tensor

from losses.objective import Objective, Result


class Tally:
    """Means over the steps that counted, and who was to blame for those that did not.

    Reading (`means`, `skipped`, `in_a_row`) waits for the device; recording never does.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.counted = self._zero()
        self.skipped_by: dict[str, Tensor] = {}
        self.row = self._zero()

    def record(self, results: list[Result], objective: Objective, norm: Tensor, good: Tensor) -> None:
        """One optimiser step, made of one result per micro-batch.

        `norm` is the model's gradient norm; `good`, a bool scalar, says whether the step was taken.
        """
        for key, value in self._curves(results, objective, norm).items():
            self.sums[key] = self.sums.get(key, self._zero()) + torch.where(good, value.float(), 0.0)
        self.counted += good
        self.row = (self.row + 1) * ~good
        blamed = self._zero().bool()
        for name in objective.terms:
            finite = torch.stack(
                [r.terms[name].gradient_norm.isfinite() & r.terms[name].value.isfinite() for r in results]
            )
            at_fault = ~good & ~finite.all()
            self.skipped_by[name] = self.skipped_by.get(name, self._zero()) + at_fault
            blamed |= at_fault
        self.skipped_by["model"] = self.skipped_by.get("model", self._zero()) + (~good & ~blamed)

    def means(self) -> dict[str, float]:
        """Means since the last call, for one line of the log; empty where every step was skipped."""
        counted = float(self.counted)
        totals = torch.stack(list(self.sums.values())).tolist() if counted else []
        means = {key: total / counted for key, total in zip(self.sums, totals, strict=False)}
        self.sums, self.counted = {}, self._zero()
        return means

    def skipped(self) -> dict[str, int]:
        """Steps skipped for a gradient that was not finite, by the term at fault; `model`: no term was."""
        return {name: int(count) for name, count in self.skipped_by.items() if int(count)}

    def in_a_row(self) -> int:
        """How many of the last steps in a row were skipped."""
        return int(self.row)

    def state(self) -> dict[str, object]:
        return {"sums": dict(self.sums), "counted": self.counted, "skipped_by": dict(self.skipped_by), "row": self.row}

    def load_state(self, state: dict) -> None:
        def here(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key: tensor.to(self.device) for key, tensor in tensors.items()}

        self.sums, self.skipped_by = here(state["sums"]), here(state["skipped_by"])
        self.counted, self.row = state["counted"].to(self.device), state["row"].to(self.device)

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self.device)

    def _curves(self, results: list[Result], objective: Objective, norm: Tensor) -> dict[str, Tensor]:
        def mean(values: list[Tensor]) -> Tensor:
            return torch.stack(values).mean() if len(values) > 1 else values[0]

        curves = {"loss": mean([r.value for r in results]), "gradient_norm": norm}
        pushes = {}
        for name, term in objective.terms.items():
            of_term = [r.terms[name] for r in results]
            curves[f"{name}/value"] = mean([t.value for t in of_term])
            curves[f"{name}/weight"] = mean([t.weight for t in of_term])
            curves[f"{name}/gradient_norm"] = mean([t.gradient_norm for t in of_term])
            pushes[name] = mean([t.weight * t.gradient_norm for t in of_term])
            curves |= {f"{name}/{key}": value for key, value in term.logs().items()}
        total = sum(pushes.values())
        curves |= {f"{name}/gradient_share": torch.where(total > 0, push / total, 0.0) for name, push in pushes.items()}
        for pair in results[0].cosines:
            curves[f"cosine/{pair[0]}~{pair[1]}"] = mean([r.cosines[pair] for r in results])
        return curves
