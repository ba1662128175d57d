"""What the log says of several steps."""

import pytest
import torch

from losses import Objective, Result, TermResult, build_objective
from recon.training.state import MetricAccumulator

NAN, INF = float("nan"), float("inf")
CPU = torch.device("cpu")


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(float(value))


def objective() -> Objective:
    return build_objective("mse+0.5*l1")


def result(mse: float = 1.0, l1: float = 2.0, norms: tuple[float, float] = (3.0, 4.0), cosine: float = 0.5) -> Result:
    terms = {
        "mse": TermResult(scalar(mse), scalar(1.0), scalar(norms[0])),
        "l1": TermResult(scalar(l1), scalar(0.5), scalar(norms[1])),
    }
    return Result(scalar(mse + 0.5 * l1), torch.zeros(1), terms, {("mse", "l1"): scalar(cosine)})


def record(metrics: MetricAccumulator, results: Result | list[Result], norm: float = 1.0) -> None:
    metrics.record(
        results if isinstance(results, list) else [results], objective(), scalar(norm), scalar(norm).isfinite()
    )


def test_means_are_over_the_steps_since_the_last_line():
    metrics = MetricAccumulator(CPU)
    record(metrics, result(mse=1, l1=2, cosine=0.25), norm=8)
    record(metrics, result(mse=3, l1=4, cosine=0.75), norm=2)
    assert metrics.means() == {
        "loss": 3.5,
        "gradient_norm": 5.0,
        "mse/value": 2.0,
        "mse/weight": 1.0,
        "mse/gradient_norm": 3.0,
        "mse/gradient_share": pytest.approx(0.6),
        "l1/value": 3.0,
        "l1/weight": 0.5,
        "l1/gradient_norm": 4.0,
        "l1/gradient_share": pytest.approx(0.4),
        "cosine/mse~l1": 0.5,
    }
    record(metrics, result(mse=7))
    assert metrics.means()["mse/value"] == 7


def without_l1(mse: float) -> Result:
    """Of a step at which l1 was not evaluated."""
    step = result(mse=mse, norms=(1, 4))
    del step.terms["l1"]
    step.cosines.clear()
    return step


def test_a_term_of_every_kth_step_is_logged_as_if_it_came_at_every_step():
    """Nothing is diluted, however many of its steps a line has; without any it takes its part from the line before."""
    straight, sparse, of = MetricAccumulator(CPU), MetricAccumulator(CPU), objective()
    of.terms["l1"].every = 3
    seldom = result(mse=3, l1=4, norms=(1, 8), cosine=0.75)
    seldom.terms["l1"].weight *= 3
    for step in range(4):
        record(straight, result(mse=3, l1=4, norms=(1, 8), cosine=0.75))
        sparse.record([without_l1(3) if step % 3 else seldom], of, scalar(1), torch.tensor(True))
    assert sparse.means() == straight.means()
    resumed = MetricAccumulator(CPU)
    resumed.load_state(sparse.state())
    for metrics in (sparse, resumed):
        metrics.record([without_l1(5)], of, scalar(1), torch.tensor(True))
        means = metrics.means()
        assert means["loss"] == 5 + 0.5 * 4  # 3 + 0.5 * 4 before
        assert means["mse/gradient_share"] == 1 / (1 + 0.5 * 8)
        assert means["l1/gradient_share"] == 4 / (1 + 0.5 * 8)
        assert "l1/value" not in means and "cosine/mse~l1" not in means  # nothing was measured


def test_micro_batches_are_averaged_into_one_step():
    metrics = MetricAccumulator(CPU)
    record(metrics, [result(mse=1), result(mse=3)])
    record(metrics, [result(mse=5), result(mse=7)])
    assert metrics.means()["mse/value"] == 4


def test_without_any_push_no_term_has_a_share():
    metrics = MetricAccumulator(CPU)
    record(metrics, result(norms=(0, 0)))
    means = metrics.means()
    assert means["mse/gradient_share"] == means["l1/gradient_share"] == 0


def test_skipped_steps_are_left_out_of_the_means():
    metrics = MetricAccumulator(CPU)
    record(metrics, result(mse=1))
    record(metrics, result(mse=NAN, norms=(NAN, 4)), norm=NAN)
    record(metrics, result(mse=3))
    assert metrics.means()["mse/value"] == 2 and metrics.skipped() == {"mse": 1}


def test_where_every_step_was_skipped_there_is_no_mean():
    metrics = MetricAccumulator(CPU)
    record(metrics, result(mse=NAN), norm=NAN)
    assert metrics.means() == {}
    record(metrics, result(mse=5))
    assert metrics.means()["mse/value"] == 5


@pytest.mark.parametrize(
    ("bad", "blamed"),
    [
        (result(mse=NAN), {"mse": 1}),
        (result(l1=INF), {"l1": 1}),
        (result(norms=(1, INF)), {"l1": 1}),
        (result(mse=NAN, norms=(1, NAN)), {"mse": 1, "l1": 1}),
        (result(), {"model": 1}),
    ],
)
@pytest.mark.parametrize("norm", [NAN, INF])
def test_the_term_at_fault_is_named_and_the_model_where_none_is(bad, blamed, norm):
    metrics = MetricAccumulator(CPU)
    record(metrics, [result(), bad], norm=norm)
    assert metrics.skipped() == blamed and metrics.skipped_in_a_row() == 1


@pytest.mark.parametrize(
    ("expression", "weights", "blamed"),
    [
        ("mse+1e30*l1", (1, 1e30), {"l1": 1}),
        ("1e30*mse+20%l1", (1e30, 2e29), {"mse": 1}),
        ("mse+1e30%l1", (1, 1e28), {"l1": 1}),
        ("mse+2000%l1", (1, 15), {"model": 1}),
        ("mse+1000*l1", (1, 1000), {"model": 1}),
    ],
)
def test_of_finite_gradients_the_one_that_its_weight_makes_huge_is_at_fault(expression, weights, blamed):
    bad, metrics = result(), MetricAccumulator(CPU)
    for term, weight in zip(bad.terms.values(), weights, strict=True):
        term.weight = scalar(weight)
    metrics.record([bad], build_objective(expression), scalar(NAN), torch.tensor(False))
    assert metrics.skipped() == blamed


def test_a_finite_step_ends_a_row():
    metrics = MetricAccumulator(CPU)
    rows = []
    for norm in (NAN, NAN, 1.0, NAN):
        record(metrics, result(), norm=norm)
        rows.append(metrics.skipped_in_a_row())
    assert rows == [1, 2, 0, 1] and metrics.skipped() == {"model": 3}


def test_an_accumulator_restored_from_its_state_has_the_same_means():
    straight, first, second = MetricAccumulator(CPU), MetricAccumulator(CPU), MetricAccumulator(CPU)
    for metrics in (straight, first):
        record(metrics, result(mse=1))
        record(metrics, result(mse=NAN), norm=NAN)
    second.load_state(first.state())
    for metrics in (straight, second):
        record(metrics, result(mse=NAN), norm=NAN)
        record(metrics, result(mse=4))
    assert straight.skipped() == second.skipped() == {"mse": 2}
    assert straight.means() == second.means()


def test_a_state_from_before_parts_were_saved_loads():
    old, new = MetricAccumulator(CPU), MetricAccumulator(CPU)
    record(old, result(mse=1))
    state = old.state()
    del state["rows"], state["parts"]
    new.load_state(state)
    record(new, result(mse=5, l1=2))
    assert new.means()["loss"] == 5 + 0.5 * 2


def test_a_state_with_the_name_that_weighted_norms_had_before_loads():
    old, new = MetricAccumulator(CPU), MetricAccumulator(CPU)
    record(old, result(mse=1))
    state = old.state()
    earlier = {
        tuple(c.replace("/weighted_norm", "/push") for c in curves): sums for curves, sums in state["rows"].items()
    }
    new.load_state(state | {"rows": earlier, "parts": {"mse/push": 3.0}})
    assert earlier != state["rows"] and new.parts == {"mse/weighted_norm": 3.0}
    assert new.means() == old.means()
