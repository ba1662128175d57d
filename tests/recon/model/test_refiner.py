"""The refiner: begins as nothing, corrects hidden patches alone, and reads across their borders."""

import pytest
import torch

from losses import InvalidSetting
from recon.model import create_model
from recon.model.layers import Refiner
from tests.recon.model.conftest import images, noise, small


def refined(seed: int = 0):
    """A small model with a refiner that does something."""
    return small(seed, refiner_width=8)


def test_a_new_refiner_changes_no_bit():
    torch.manual_seed(0)
    plain = create_model("nano", image_size=16, patch_size=4)
    torch.manual_seed(0)
    with_one = create_model("nano", image_size=16, patch_size=4, refiner_width=8)
    x, n = torch.rand(2, 3, 16, 16), torch.rand(2, 16)
    for decoded in (None, 1.0):
        predictions = [m(x, noise=n, decoded=decoded).prediction for m in (plain, with_one)]
        assert torch.equal(*predictions)


def test_it_corrects_hidden_patches_and_no_visible_one():
    model = refined()
    found = model(images(), noise=noise())
    refiner, model.refiner = model.refiner, None
    plain = model(images(), noise=noise())
    changed = (found.prediction != plain.prediction).any(-1)
    assert torch.equal(changed, found.mask) and refiner is not None


def test_all_patches_or_hidden_ones_alone_are_the_same_picture():
    model = refined()
    everywhere, hidden = (model(images(), noise=noise(), decoded=decoded) for decoded in (None, 1.0))
    torch.testing.assert_close(everywhere.composite, hidden.composite, rtol=0, atol=1e-12)


def test_what_is_predicted_for_a_visible_patch_is_not_read():
    """The composite is: the truth where visible. So whatever the decoder says there changes no hidden patch."""
    model, x, n = refined(), images(), noise()
    r = model(x, noise=n)
    truth, hidden = (x - model.mean) / model.std, r.mask.to(torch.uint8).argsort(dim=1, stable=True)[:, 6:]
    at = hidden.unsqueeze(-1).expand(-1, -1, r.values)
    prediction = torch.randn(3, 9, r.values, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = model.refiner(prediction, truth, r.mask, hidden)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    other = model.refiner(prediction[:, order], truth, r.mask, hidden[:, order])
    torch.testing.assert_close(other, one[:, order], rtol=0, atol=1e-12)
    assert at.shape == prediction.shape


def test_a_hidden_patch_is_corrected_by_what_its_neighbours_show():
    """The decoder sees visible patches as tokens; the refiner sees the pixels at the border, too."""
    model, x = refined(), images(1)
    mask = torch.zeros(1, 15, dtype=torch.bool)
    mask[:, 7] = True
    truth, hidden = (x - model.mean) / model.std, torch.tensor([[7]])
    prediction = torch.zeros(1, 1, 48, dtype=torch.float64)
    near = truth.clone().requires_grad_()
    model.refiner(prediction, near, mask, hidden).sum().backward()
    assert near.grad[:, :, 4:8, 6:8].abs().max() > 0  # left of the patch at rows 4 to 8, columns 8 to 12
    assert not near.grad[:, :, 4:8, 8:12].any()  # the hidden patch's own truth is not looked at


def test_its_grain_is_one_for_all_images_seeds_and_files():
    one, other = refined(0), refined(1)
    assert torch.equal(one.refiner.grain, other.refiner.grain) and "refiner.grain" not in one.state_dict()
    x, n = images(1), noise(1)
    alone, among = one(x, noise=n), one(torch.cat([x.flip(3), x]), noise=torch.cat([n, n]))
    torch.testing.assert_close(alone.composite[0], among.composite[1], rtol=0, atol=1e-12)


def test_flat_patches_get_texture_from_the_grain():
    """Convolutions of a constant are a constant, but for the 4x4 pixels that the shuffles tell apart."""
    refiner = Refiner(8, (128, 128)).double()
    torch.nn.init.normal_(refiner.outputs.weight)
    flat, covered = torch.zeros(1, 3, 128, 128).double(), torch.ones(1, 1, 128, 128).double()
    middle = (..., slice(52, 76), slice(52, 76))  # where the zeros around the image do not reach
    with_grain = refiner.correction(flat, covered)[middle]
    refiner.grain.zero_()
    without = refiner.correction(flat, covered)[middle]
    torch.testing.assert_close(without[..., :-4, :-4], without[..., 4:, 4:], rtol=0, atol=1e-12)
    assert (with_grain[..., :-4, :-4] - with_grain[..., 4:, 4:]).abs().mean() > 0.01


def test_an_untrained_copy_has_a_refiner_that_is_new():
    copy = refined().untrained(seed=3)
    assert not copy.refiner.outputs.weight.any()


def test_an_untrained_copy_has_the_encoder_that_one_without_a_refiner_has():
    copies = [create_model("nano", image_size=16, refiner_width=width).untrained(seed=3) for width in (0, 8)]
    states = [copy.state_dict() for copy in copies]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_share_of_patches_to_decode_leaves_holes_that_it_cannot_read():
    with pytest.raises(ValueError, match="refiner"):
        refined()(images(), noise=noise(), decoded=0.5)


@pytest.mark.parametrize(("overrides", "named"), [({"patch_size": 6, "image_size": 18}, "multiples of 4")])
def test_sizes_that_it_cannot_halve_twice_are_one_line(overrides, named):
    with pytest.raises(InvalidSetting, match=named) as error:
        create_model("nano", refiner_width=8, **overrides)
    assert len(str(error.value).splitlines()) == 1
