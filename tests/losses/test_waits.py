"""No term makes the host wait for the device: tried on torch's `meta` device, whose tensors have no values."""

import contextlib
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from losses import TERMS, MixtureHead, Reconstruction, build_objective
from losses.posterior import PrincipalComponents
from losses.targets import PCAHead
from losses.tokens import TokensHead
from recon.training.state import MetricAccumulator
from tests.losses.scenes import FEATURES, SMALL

META = torch.device("meta")
MAKERS = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}


def devices(tree) -> set[str]:
    return {x.device.type for x in tree_iter(tree) if isinstance(x, torch.Tensor)}


class Noted:
    """A mode of torch that notes what it finds."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found


class Copies(Noted, TorchDispatchMode):
    """Copies from the host to the device; a copy back, or a value that is asked for, raises by itself."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if "copy" in str(function) and "meta" in devices(out) and "cpu" in devices((args, kwargs)):
            self.found.append(str(function))
        return out


class Made(Noted, TorchFunctionMode):
    """Tensors that are made of the host's numbers on the device, which is a copy too."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function in MAKERS and out.device == META and not isinstance(args[-1], torch.Tensor):
            self.found.append(str(function))
        return out


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """Which knows nothing of this device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


def copied(expression: str) -> list[str]:
    """What two steps of an objective copy to the device, or wait for."""
    objective = build_objective(expression, image_size=(64, 64), steps=10, **SMALL).to(META)
    statistics = [torch.empty(3, device=META) for _ in range(2)]  # as a model's buffers
    head = objective.head
    if isinstance(head, MixtureHead | PCAHead):
        axes, deviations = torch.empty(192, 192, device=META), torch.empty(192, device=META)  # as a model's buffers
        head = replace(head, basis=PrincipalComponents(axes, deviations))
    if isinstance(head, TokensHead):
        head = replace(head, tokenizer=deepcopy(head.for_patches(192)).to(META))
    images = torch.empty(2, 3, 64, 64, device=META)
    mask = torch.empty(2, 64, dtype=torch.bool, device=META)
    metrics = MetricAccumulator(META)
    found: list[str] = []
    with Copies(found), Made(found):
        for step in (0, 5):
            prediction = torch.empty(2, 64, head.width(192), device=META, requires_grad=True)
            r = Reconstruction(prediction, images, mask, head, *statistics)
            result = objective(r, step)
            prediction.backward(result.gradient)
            norm = torch.linalg.vector_norm(prediction.grad)
            metrics.record([result], objective, norm, norm.isfinite())
    return found


@pytest.mark.parametrize(
    "expression",
    [*(f"{name}+l1" for name in sorted(TERMS) if name not in ("l1", "ssim", *FEATURES)), *FEATURES, "l1+20%mse"],
)
def test_a_step_of_an_objective_waits_for_nothing(expression):
    assert copied(expression) == []


def test_what_waits_is_found(monkeypatch):
    assert copied("ssim") != []  # its docstring says so
    monkeypatch.setattr(
        "losses.pixel.MSE.value", lambda self, r: r.judged_mean(r.pixels.square()) * r.pixels.new_tensor(2.0)
    )
    assert copied("mse") != []
    monkeypatch.setattr(
        "losses.pixel.MSE.value", lambda self, r: r.judged_mean(r.pixels) * r.pixels.detach().sum().item()
    )
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        copied("mse")
