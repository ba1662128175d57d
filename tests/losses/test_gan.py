"""GAN losses in closed form, the signs of their gradients, and the patch discriminator."""

import math

import pytest
import torch
from torch import nn

from losses.gan import GAN_LOSSES, PatchDiscriminator

POINTS = [(-2.0, -3.0), (-1.0, 0.5), (0.0, 0.0), (0.4, -0.2), (1.0, -1.0), (1.0, 1.0), (3.0, -2.0), (0.5, 2.5)]


def maps(real: float, fake: float):
    return torch.full((2, 1, 3, 4), real, dtype=torch.float64), torch.full((2, 1, 3, 4), fake, dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


DISCRIMINATOR = {
    "hinge": lambda real, fake: (max(0, 1 - real) + max(0, 1 + fake)) / 2,
    # -(log D(real) + log(1 - D(fake))) / 2 with D a sigmoid
    "nonsaturating": lambda real, fake: (
        -(math.log(1 / (1 + math.exp(-real))) + math.log(1 - 1 / (1 + math.exp(-fake)))) / 2
    ),
    "relativistic": lambda real, fake: softplus(fake - real),
}


GENERATOR = {
    "hinge": lambda real, fake: -fake,
    "nonsaturating": lambda real, fake: -math.log(1 / (1 + math.exp(-fake))),
    "relativistic": lambda real, fake: softplus(real - fake),
}


@pytest.fixture(params=sorted(GAN_LOSSES))
def name(request):
    return request.param


def test_every_gan_loss_is_tested(name):
    assert name in DISCRIMINATOR and name in GENERATOR


@pytest.mark.parametrize(("real", "fake"), POINTS)
def test_discriminator_loss_in_closed_form(name, real, fake):
    assert float(GAN_LOSSES[name].discriminator(*maps(real, fake))) == pytest.approx(DISCRIMINATOR[name](real, fake))


@pytest.mark.parametrize(("real", "fake"), POINTS)
def test_generator_loss_in_closed_form(name, real, fake):
    reals, fakes = maps(real, fake)
    assert float(GAN_LOSSES[name].generator(fakes, reals)) == pytest.approx(GENERATOR[name](real, fake))


def test_losses_are_means_over_the_map(name):
    gan_loss, (reals, fakes) = GAN_LOSSES[name], torch.randn(2, 3, 1, 4, 5, dtype=torch.float64)
    each = [(real, fake) for real, fake in zip(reals.flatten(), fakes.flatten(), strict=True)]
    assert float(gan_loss.discriminator(reals, fakes)) == pytest.approx(
        sum(DISCRIMINATOR[name](float(r), float(f)) for r, f in each) / len(each)
    )
    assert float(gan_loss.generator(fakes, reals)) == pytest.approx(
        sum(GENERATOR[name](float(r), float(f)) for r, f in each) / len(each)
    )


def test_the_generator_raises_every_fake_logit(name):
    reals, fakes = torch.randn(2, 2, 1, 4, 4) * 2
    fakes.requires_grad_()
    GAN_LOSSES[name].generator(fakes, reals).backward()
    assert (fakes.grad < 0).all()


def test_the_discriminator_separates_real_from_fake(name):
    reals, fakes = (torch.rand(2, 2, 1, 4, 4) - 0.5).requires_grad_().unbind()
    real_gradient, fake_gradient = torch.autograd.grad(GAN_LOSSES[name].discriminator(reals, fakes), (reals, fakes))
    assert (real_gradient < 0).all() and (fake_gradient > 0).all()


def test_a_confident_hinge_discriminator_rests():
    reals, fakes = maps(1.5, -1.5)
    reals.requires_grad_()
    loss = GAN_LOSSES["hinge"].discriminator(reals, fakes)
    assert float(loss.detach()) == 0
    assert not torch.autograd.grad(loss, reals)[0].any()


@pytest.mark.parametrize("logit", [-500.0, 500.0])
def test_extreme_logits_stay_finite(name, logit):
    reals, fakes = maps(-logit, logit)
    assert GAN_LOSSES[name].discriminator(reals, fakes).isfinite()
    assert GAN_LOSSES[name].generator(fakes, reals).isfinite()


def test_a_relative_game_reads_the_truth_and_the_others_do_not(name):
    reals, fakes = maps(0.3, -0.2)
    value = GAN_LOSSES[name].generator(fakes, reals)
    assert bool(value != GAN_LOSSES[name].generator(fakes, reals + 1)) == GAN_LOSSES[name].relative
    if not GAN_LOSSES[name].relative:
        assert torch.equal(GAN_LOSSES[name].generator(fakes, None), value)


@pytest.mark.parametrize(
    ("gan_loss", "real", "fake", "accuracy"),
    [
        ("hinge", [1.0, -1.0], [-1.0, -1.0], 0.75),
        ("hinge", [1.0, 1.0], [-1.0, -1.0], 1.0),
        ("hinge", [-1.0, -1.0], [1.0, 1.0], 0.0),
        ("nonsaturating", [2.0, 3.0], [1.0, 1.0], 0.5),
        ("relativistic", [2.0, 3.0], [1.0, 1.0], 1.0),
        ("relativistic", [2.0, 3.0], [1.0, 4.0], 0.5),
        ("relativistic", [-2.0, -3.0], [-1.0, -1.0], 0.0),
    ],
)
def test_accuracy_is_the_share_of_correct_logits(gan_loss, real, fake, accuracy):
    reals, fakes = (torch.tensor(logits).view(2, 1, 1, 1) for logits in (real, fake))
    assert float(GAN_LOSSES[gan_loss].accuracy(reals, fakes)) == accuracy


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
def test_logits_are_a_map_not_one_number(size):
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


def test_an_images_logits_do_not_depend_on_the_others():
    net = PatchDiscriminator((32, 32), width=8).double()
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(net(images), alone, rtol=1e-12, atol=1e-14)


def test_logits_begin_at_the_order_of_one():
    """Neither vanishing nor exploding at initialisation, so that every gan_loss starts in its active range."""
    torch.manual_seed(0)
    spread = PatchDiscriminator((64, 64))(torch.rand(4, 3, 64, 64) * 2 - 1).detach().std()
    assert 0.05 < float(spread) < 5
