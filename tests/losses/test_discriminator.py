"""The patch discriminator: a map of judgements at any image size, one image at a time."""

import pytest
import torch
from torch import nn

from losses.discriminator import PatchDiscriminator


@pytest.mark.parametrize(
    ("size", "strided"),
    [
        ((16, 16), 1),
        ((32, 32), 2),
        ((64, 64), 3),
        ((224, 224), 3),
        ((256, 256), 3),
        ((32, 48), 2),
        ((64, 32), 2),
        ((96, 64), 3),
        ((8, 8), 1),
    ],
)
def test_depth_follows_the_smaller_side(size, strided):
    net = PatchDiscriminator(size, width=2)
    strides = [layer.stride[0] for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert strides == [2] * strided + [1, 1]
    assert net.stride == 2**strided


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (224, 224), (256, 256), (32, 48), (64, 32), (96, 224)])
def test_judges_by_a_map_and_not_by_one_number(size):
    net = PatchDiscriminator(size, width=2)
    # A shift of the grid takes stride - 1 rows and columns.
    for cut in (0, net.stride - 1):
        logits = net(torch.zeros(1, 3, size[0] - cut, size[1] - cut))
        assert logits.shape[:2] == (1, 1)
        assert min(logits.shape[2:]) >= 2


def test_from_64_pixels_on_its_receptive_field_is_70_pixels():
    net = PatchDiscriminator((256, 256), width=2)
    images = torch.rand(1, 3, 256, 256, requires_grad=True)
    logits = net(images)
    row, column = logits.shape[2] // 2, logits.shape[3] // 2
    logits[0, 0, row, column].backward()
    seen = images.grad[0].abs().sum(0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


def test_widths_double_from_the_first():
    net = PatchDiscriminator((64, 64), width=6)
    widths = [layer.out_channels for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert widths == [6, 12, 24, 48, 1]


def test_no_statistic_of_the_batch():
    assert not any(
        isinstance(module, nn.modules.batchnorm._NormBase) for module in PatchDiscriminator((64, 64)).modules()
    )


def test_an_images_judgement_does_not_depend_on_the_others():
    net = PatchDiscriminator((32, 32), width=8).double()
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(net(images), alone, rtol=1e-12, atol=1e-14)


def test_logits_begin_at_the_order_of_one():
    """Neither vanishing nor exploding at initialisation, so that every game starts in its active range."""
    torch.manual_seed(0)
    spread = PatchDiscriminator((64, 64))(torch.rand(4, 3, 64, 64) * 2 - 1).detach().std()
    assert 0.05 < float(spread) < 5
