"""Those that are measured side by side compute one thing."""

import pytest
import torch

from experiments.benchmarks.peers.ours import Ours
from experiments.benchmarks.peers.side import Task
from recon.model import create_model

pytestmark = pytest.mark.peers

pytest.importorskip("lightly")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def task():
    return Task("nano", image_size=32, patch_size=8, batch=3, device=torch.device("cpu"), low=False)


@pytest.fixture(scope="module")
def weights(task):
    torch.manual_seed(3)
    return create_model("nano", image_size=task.image_size, patch_size=task.patch_size).state_dict()


def others():
    from experiments.benchmarks.peers.hugging_face import HuggingFace
    from experiments.benchmarks.peers.lightly import Lightly

    return [HuggingFace, Lightly]


def test_all_have_one_loss_before_and_after_a_step_of_one_gradient(task, weights):
    """Gradients too: after the same plain step of SGD the losses are still the same, and others."""
    sides = [Ours(task, weights), *(side(task, weights) for side in others())]
    losses = []
    for _ in range(2):
        found = [side.loss(task.noise()) for side in sides]
        losses.append([loss.item() for loss in found])
        for side, loss in zip(sides, found, strict=True):
            if isinstance(side, Ours):
                r = side.model(task.images, noise=task.noise())
                r.prediction.backward(side.bench.objective(r, 0).gradient)
            else:
                loss.backward()
            torch.optim.SGD(side.model.parameters(), lr=0.1).step()
            side.model.zero_grad()
    for before_or_after in losses:
        assert before_or_after == pytest.approx([before_or_after[0]] * 3, rel=1e-5)
    assert abs(losses[1][0] / losses[0][0] - 1) > 1e-3


def test_a_step_of_each_changes_its_own_weights_alone(task, weights):
    before = {name: value.clone() for name, value in weights.items()}
    sides = [Ours(task, weights), *(side(task, weights) for side in others())]
    for side in sides:
        others_before = [p.clone() for other in sides if other is not side for p in other.model.parameters()]
        own = [p.clone() for p in side.model.parameters()]
        side.step()
        assert any(not torch.equal(a, b) for a, b in zip(own, side.model.parameters(), strict=True))
        now = [p for other in sides if other is not side for p in other.model.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(others_before, now, strict=True))
    assert all(torch.equal(before[name], value) for name, value in weights.items())
