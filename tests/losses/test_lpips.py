"""The LPIPS term against its package, on torchvision's weights where they are to be had."""

import pytest
import torch

from losses import InvalidSetting, TermContext
from losses.perceptual import LPIPS
from tests.losses.scenes import gradient_of, one_line, photographs, random_trunk, replaced, scene

FILES = {"alex": "alexnet_features.safetensors", "squeeze": "squeezenet1_1_features.safetensors"}


def term_with(net: str = "squeeze", weights: str | None = None) -> LPIPS:
    return LPIPS(LPIPS.Options(net=net, weights=weights or random_trunk()), TermContext((64, 64)))


def photographed():
    """Photographs as truth, noise as prediction."""
    r = scene(4, size=(64, 64), shift=(0.0, 0.0))
    return replaced(r, image=photographs())


@pytest.mark.parametrize("net", FILES)
def test_value_and_gradient_are_the_packages(net, shared):
    term, r = term_with(net, str(shared / "weights" / FILES[net])), photographed()
    leaf = r.prediction.clone().requires_grad_()
    seen = [image[:, :, :57, :57] * 2 - 1 for image in (r.at(leaf, "hidden").composite, r.image)]
    expected = term.package(*seen).mean()
    torch.testing.assert_close(term.value(r), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient_of(term, r), torch.autograd.grad(expected, leaf)[0], rtol=1e-4, atol=1e-9)


def test_it_is_asleep_whatever_its_parent_does():
    term, r = term_with(), photographed()
    before = term.value(r)
    term.train()
    assert torch.equal(term.value(r), before)
    assert not any(p.requires_grad for p in term.parameters())


def test_weights_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(InvalidSetting) as error:
        term_with(weights=str(tmp_path / "none.safetensors"))
    assert "none.safetensors" in one_line(error)


def test_a_trunk_of_another_network_is_one_line():
    with pytest.raises(InvalidSetting) as error:
        term_with(net="alex")  # the file holds SqueezeNet's
    assert "LPIPS-alex" in one_line(error)


def test_images_below_what_its_poolings_need_are_one_line():
    with pytest.raises(InvalidSetting) as error:
        LPIPS(LPIPS.Options(weights=random_trunk()), TermContext((16, 64)))
    assert "data.image_size" in one_line(error)


def test_it_says_where_its_weights_came_from():
    told = term_with().provenance()
    assert told["network"] == "LPIPS-squeeze" and told["source"] == random_trunk() and len(told["sha256"]) == 64
