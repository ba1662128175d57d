"""Reconstructions of hidden patches alone, or of a part of them."""

import pytest
import torch

from losses.reconstruction import expand_to_pixels
from tests.losses.scenes import DISTRIBUTED, EVERY, norm_scene, objective_of, replaced, scene, scene_for


def hidden_of(r):
    """(B, n), in no order of position."""
    generator = torch.Generator().manual_seed(1)
    order = torch.rand(r.mask.shape, generator=generator).masked_fill(~r.mask, 2).argsort(1)
    return order[:, : int(r.mask[0].sum())]


def rows(patches, where):
    return patches.gather(1, where.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))


@pytest.fixture(params=[scene, norm_scene], ids=["pixels", "normalised"])
def pair(request):
    """A reconstruction of every patch, and of its hidden ones alone."""
    full = request.param(dtype=torch.float64, shift=(0.3, 0.6))
    where = hidden_of(full)
    return full, replaced(full, prediction=rows(full.prediction, where), indices=where)


@pytest.mark.parametrize("expression", [*EVERY, *DISTRIBUTED])
def test_an_objective_says_the_same_of_hidden_patches_and_of_all(expression):
    """Value, and gradient: that at a visible patch is zero."""
    objective = objective_of(expression).eval()
    full = scene_for(expression, shift=(0.3, 0.6))
    where = hidden_of(full)
    whole, part = objective(full), objective(replaced(full, prediction=rows(full.prediction, where), indices=where))
    assert torch.allclose(whole.value, part.value, rtol=1e-5)
    at_hidden = rows(whole.gradient, where)
    assert torch.allclose(at_hidden.norm(), whole.gradient.norm(), rtol=1e-6)
    assert (at_hidden - part.gradient).norm() <= 1e-5 * at_hidden.norm()
    for name, term in part.terms.items():
        assert torch.allclose(term.gradient_norm, whole.terms[name].gradient_norm, rtol=1e-5)


def test_views_of_patches_are_those_of_the_predicted_ones(pair):
    full, part = pair
    for view in ("true_pixels", "pixels", "oracle_pixels", "patches", "target"):
        assert torch.equal(rows(getattr(full, view), part.indices), getattr(part, view)), view


def test_the_composites_are_the_same(pair):
    full, part = pair
    for view in ("composite", "judged_image", "oracle_composite"):
        assert torch.equal(getattr(full, view), getattr(part, view)), view


def test_where_nothing_was_predicted_a_composite_shows_the_truth(pair):
    full, _ = pair
    where = hidden_of(full)[:, :3]
    part = replaced(full, prediction=rows(full.prediction, where), indices=where)
    predicted = expand_to_pixels(torch.zeros_like(full.mask).scatter(1, where, True), full.grid, full.patch_size)
    assert torch.equal(part.composite, torch.where(predicted, full.composite, full.image))
    assert not torch.equal(part.composite, full.composite)


def test_the_mean_over_a_part_is_over_that_part(pair):
    _, part = pair
    error = (part.pixels - part.true_pixels).square()
    assert torch.allclose(part.judged_mean(error), error.mean(), rtol=1e-12)


def test_all_patches_cannot_be_judged_where_some_were_predicted(pair):
    _, part = pair
    with pytest.raises(ValueError, match="only hidden patches were predicted"):
        replaced(part, over="all")
    with pytest.raises(ValueError, match="only hidden patches were predicted"):
        part.at(part.prediction, "all")
