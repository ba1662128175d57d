"""Where gradients go in the model."""

import pytest
import torch

from losses import build_objective
from losses.heads import NormalisedPixelHead
from tests.recon.model.conftest import images, noise, small


@pytest.mark.parametrize("class_tokens", [1, 3])
@pytest.mark.parametrize("mask_tokens", ["decoder", "encoder"])
@pytest.mark.parametrize("loss", ["mse", "norm_mse"])
def test_gradient_reaches_every_parameter(loss, mask_tokens, class_tokens):
    objective = build_objective(loss)
    model = small(head=objective.head, mask_tokens=mask_tokens, class_tokens=class_tokens)
    r = model(images(), noise=noise())
    r.prediction.backward(objective(r).gradient)
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == [] and model.cls_token.grad.any(-1).all()


def test_the_statistics_head_sends_no_gradient_into_the_model():
    model = small(head=NormalisedPixelHead())
    model(images(), noise=noise()).prediction[..., -2:].square().sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {name for name, _ in model.named_parameters() if name.startswith("statistics.")} != set()


def test_the_statistics_head_leaves_the_patches_alone():
    model = small(head=NormalisedPixelHead())
    before = model(images(), noise=noise()).prediction
    with torch.no_grad():
        for p in model.statistics.parameters():
            p.add_(1)
    after = model(images(), noise=noise()).prediction
    assert torch.equal(before[..., :-2], after[..., :-2])
    assert not torch.isclose(before[..., -2:], after[..., -2:]).any()
