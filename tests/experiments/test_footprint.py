"""What tensors take: counted, against closed forms."""

from types import SimpleNamespace

import torch
from torch import nn

from experiments.benchmarks.footprint import Live, kept_for_backward
from experiments.benchmarks.memory import growth

MIB = 2**20


def mebibytes(n):
    return torch.zeros(n * MIB // 4)


def test_the_peak_counts_what_lives_at_once_and_each_storage_once():
    here = mebibytes(3)
    with Live([here]) as live:
        a = mebibytes(2) + 0  # two of them for a moment
        assert live.now == 5 * MIB and live.peak == 7 * MIB
        b = a.view(2, -1).t()[0]
        a.mul_(2)
        assert live.now == 5 * MIB
        del a, b
        assert live.now == 3 * MIB
        c = mebibytes(1)
    assert live.now == 4 * MIB and live.peak == 7 * MIB and len(c)


def test_the_peak_sees_the_backward_pass():
    weight = mebibytes(1).requires_grad_()
    with Live([weight]) as live:
        weight.sigmoid().sigmoid().sum().backward()
    assert live.now == 2 * MIB and weight.grad is not None
    assert live.peak >= 4 * MIB  # weight, two outputs, and a gradient on its way


def test_kept_are_the_inputs_of_products_and_the_outputs_of_activations_and_no_parameters():
    model = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 4))
    for batch in (1, 5):
        x = torch.zeros(batch, 8)
        bench = SimpleNamespace(model=model, forward=lambda x=x: model(x))
        assert kept_for_backward(bench) == 4 * batch * (8 + 16)  # the sigmoid's output is the second product's input


def test_the_largest_batch_is_what_the_rest_of_the_memory_holds():
    few, many = ({"checkpointing": "no", "batch": n, "kept_mib": 2 * n, "peak_mib": 100 + 3 * n} for n in (4, 10))
    found = growth(few, many, room=(100 + 3 * 50 + 2) * MIB)
    assert found == {"checkpointing": "no", "kept_per_image": 2, "peak_per_image": 3, "largest_batch": 50}
