"""Compiled critics say what they say uncompiled, and are compiled once."""

import pytest
import torch
from torch._dynamo.utils import counters

from tests.losses.scenes import objective_of, scene

pytestmark = pytest.mark.slow

CRITICS = {
    "perceptual": {"weights": "random", "taps": ["conv1_2", "conv2_1"]},
    "hinge": {"width": 4},
    "relativistic": {"width": 4, "gan_loss": "relativistic", "penalty_every": 2},
}


@pytest.fixture
def quick(monkeypatch):
    """Traced, split and differentiated as ever, but not made into machine code, which takes most of the time."""
    inductor = torch.compile

    def compiled(function, *, dynamic):
        assert dynamic is False  # shapes are static, also where two are seen
        return inductor(function, dynamic=dynamic, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compiled)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", CRITICS)
def test_a_compiled_critic_says_the_same_and_is_compiled_once(quick, name):
    """Whatever the shift: graphs of the first steps (for a lazy penalty, two) are those of all."""
    term = "perceptual" if name == "perceptual" else "adversarial"
    options = {term: CRITICS[name], "critic_dtype": torch.float32}
    plain, compiled = (objective_of(f"mse + 10%{term}", compiled=c, **options) for c in (False, True))
    graphs = []
    for step in range(5):
        r = scene(seed=step, shift=(step / 5, (2 * step % 5) / 5))
        results = [objective(r, step) for objective in (plain, compiled)]
        torch.testing.assert_close(results[1].gradient, results[0].gradient, rtol=1e-4, atol=1e-9)
        learnt = [[p.grad for p in objective.parameters() if p.grad is not None] for objective in (plain, compiled)]
        for a, b in zip(*learnt, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)
        for objective in (plain, compiled):
            objective.update(step)
        compiled.load_state(plain.state())  # Adam would make much of a rounding
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and graphs[1:] == [graphs[1]] * 4
    assert not counters["graph_break"]
