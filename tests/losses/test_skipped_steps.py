"""A step that is skipped leaves no trace; one that is not is a plain step."""

import copy

import pytest
import torch

from losses.term import gradient_norm, step_unless

OPTIMISERS = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1, fused=True),
    "Adam with decay": lambda parameters: torch.optim.Adam(parameters, lr=0.1, weight_decay=0.1, fused=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5, fused=True),
}
GOOD, BAD = torch.tensor(False), torch.tensor(True)


@pytest.fixture(params=OPTIMISERS)
def make(request):
    def build():
        parameters = [torch.linspace(-1, 1, n).requires_grad_() for n in (5, 40)]
        return parameters, OPTIMISERS[request.param](parameters)

    return build


def give_gradients(parameters, seed, value=None):
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator) if value is None else torch.full_like(p, value)


def everything(parameters, optimiser):
    """Copies of the parameters and of the optimiser's state, flat."""
    state = [copy.deepcopy(optimiser.state[p]) for p in parameters]
    return [p.detach().clone() for p in parameters] + [s[key] for s in state for key in sorted(s)]


def equal(left, right) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_good_step_is_a_plain_step_bit_for_bit(make):
    (ours, optimiser), (plain, plain_optimiser) = make(), make()
    for seed in range(3):
        give_gradients(ours, seed)
        give_gradients(plain, seed)
        step_unless(optimiser, GOOD)
        plain_optimiser.step()
        assert equal(everything(ours, optimiser), everything(plain, plain_optimiser))


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_bad_step_changes_neither_parameters_nor_state(make, value):
    parameters, optimiser = make()
    give_gradients(parameters, 0)
    step_unless(optimiser, GOOD)
    before = everything(parameters, optimiser)
    give_gradients(parameters, 1, value)
    step_unless(optimiser, BAD)
    assert equal(everything(parameters, optimiser), before)


def test_bad_steps_leave_no_trace_in_the_steps_after(make):
    (ours, optimiser), (plain, plain_optimiser) = make(), make()
    for seed, bad in enumerate([True, False, True, True, False]):
        give_gradients(ours, seed, float("nan") if bad else None)
        step_unless(optimiser, torch.tensor(bad))
        if not bad:
            give_gradients(plain, seed)
            plain_optimiser.step()
    assert equal(everything(ours, optimiser), everything(plain, plain_optimiser))


def test_a_skipped_step_is_not_remembered_by_a_plain_one(make):
    (ours, optimiser), (plain, plain_optimiser) = make(), make()
    give_gradients(ours, 0, float("nan"))
    step_unless(optimiser, BAD)
    for parameters in (ours, plain):
        give_gradients(parameters, 1)
    optimiser.step()
    plain_optimiser.step()
    assert equal(everything(ours, optimiser), everything(plain, plain_optimiser))


def test_gradient_norm_is_over_all_parameters_that_have_one():
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True), torch.zeros(1)]
    parameters[0].grad = torch.tensor([3.0, 0.0])
    parameters[1].grad = torch.tensor([0.0, 0.0, 4.0])
    assert float(gradient_norm(parameters)) == 5
    assert float(gradient_norm(iter(parameters))) == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_gradient_that_is_not_finite_makes_the_norm_so(value):
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)]
    give_gradients(parameters, 0)
    parameters[1].grad[2] = value
    assert not gradient_norm(parameters).isfinite()
