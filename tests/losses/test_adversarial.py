"""The adversarial term: which images the discriminator is shown, and who learns from what."""

import pytest
import torch
from torch import nn

from losses import adversarial as adversarial_module
from losses.gan import GAN_LOSSES
from tests.losses.scenes import SIZE, adversarial, gradient_of, logits_of, replaced, scene, weights_of


def test_value_is_the_generators_loss_on_the_composite(gan_loss):
    term, r = adversarial(gan_loss=gan_loss), scene(shift=(0.3, 0.6))
    real, fake = logits_of(term, r)
    torch.testing.assert_close(term.value(r), GAN_LOSSES[gan_loss].generator(fake, real), rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_the_generators_loss(gan_loss):
    term, r = adversarial(gan_loss=gan_loss), scene(shift=(0.3, 0.6))
    leaf = r.prediction.clone().requires_grad_()
    real, fake = (
        term.discriminator(r.shifted(image, term.discriminator.stride) * 2 - 1)
        for image in (r.image, r.at(leaf, "hidden").composite)
    )
    (expected,) = torch.autograd.grad(GAN_LOSSES[gan_loss].generator(fake, real), leaf)
    torch.testing.assert_close(gradient_of(term, r), expected, rtol=1e-4, atol=1e-8)


def test_value_sends_no_gradient_to_the_discriminator(gan_loss):
    term, r = adversarial(gan_loss=gan_loss), scene()
    assert gradient_of(term, r).any()
    assert all(p.grad is None for p in term.discriminator.parameters())
    assert all(p.requires_grad for p in weights_of(term))


def test_learn_sends_no_gradient_to_the_prediction(gan_loss):
    term, r = adversarial(gan_loss=gan_loss), scene()
    leaf = r.prediction.clone().requires_grad_()
    term.learn(r.at(leaf, "hidden"))
    assert leaf.grad is None
    assert all(p.grad.any() for p in weights_of(term))


def test_learn_works_where_gradients_are_off(gan_loss):
    term, r = adversarial(gan_loss=gan_loss), scene()
    with torch.no_grad():
        term.learn(r)
    assert all(p.grad is not None for p in weights_of(term))


def test_the_bias_of_the_logits_stays_where_the_game_cannot_see_it(gan_loss):
    """Its gradient there is nothing but rounding, which Adam would make steps of."""
    term = adversarial(gan_loss=gan_loss)
    for step in range(3):
        term.learn(scene(3, seed=step))
        term.update(step)
    assert bool(term.discriminator.layers[-1].bias.detach().any()) != GAN_LOSSES[gan_loss].relative


def in_two_passes(term, r, penalty: float = 0.0) -> list[torch.Tensor]:
    """The gradient of the discriminator's loss at its parameters, truth and composite in two passes."""
    images = [
        (r.shifted(image, term.discriminator.stride) * 2 - 1).requires_grad_() for image in (r.image, r.composite)
    ]
    real, fake = map(term.discriminator, images)
    loss = term.gan_loss.discriminator(real, fake)
    kinds = ((real, images[0]), (fake, images[1])) if term.gan_loss.relative else ((real, images[0]),)
    for logits, seen in kinds:  # R1, R2
        (slope,) = torch.autograd.grad(logits.mean((1, 2, 3)).sum(), seen, create_graph=True)
        loss = loss + penalty / 2 * slope.square().sum((1, 2, 3)).mean()
    # The relativistic gan_loss cannot see the bias of the logits: a gradient of nothing but rounding.
    return torch.autograd.grad(loss, weights_of(term))


def test_one_pass_over_truth_and_composite_learns_what_two_would(gan_loss):
    term, r = adversarial(gan_loss=gan_loss, penalty=3.0).double(), scene(3, dtype=torch.float64, shift=(0.5, 0.1))
    term.learn(r)
    expected = in_two_passes(term, r, penalty=3.0)
    for p, gradient in zip(weights_of(term), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_lazy_penalty_comes_with_every_kth_update_times_k(k):
    """Its mean over updates is that of a penalty in each of them."""
    term = adversarial(gan_loss="relativistic", penalty=0.5, penalty_every=k, lr=0.0).double()
    r = scene(3, dtype=torch.float64, shift=(0.5, 0.1))
    never, always = in_two_passes(term, r), in_two_passes(term, r, penalty=0.5)
    for step in range(2 * k):
        term.learn(r)
        for p, without, with_it in zip(weights_of(term), never, always, strict=True):
            expected = without + (with_it - without) * k * (step % k == 0)
            torch.testing.assert_close(p.grad, expected, rtol=1e-10, atol=1e-12)
        term.update(step)


def test_a_lazy_penalty_counts_updates_and_not_micro_batches():
    term = adversarial(gan_loss="relativistic", penalty=0.5, penalty_every=2, lr=0.0).double()
    r = scene(3, dtype=torch.float64, shift=(0.5, 0.1))
    never, always = in_two_passes(term, r), in_two_passes(term, r, penalty=0.5)
    for step in range(4):
        term.learn(r)
        term.learn(r)
        for p, without, with_it in zip(weights_of(term), never, always, strict=True):
            expected = 2 * (without + (with_it - without) * 2 * (step % 2 == 0))
            torch.testing.assert_close(p.grad, expected, rtol=1e-10, atol=1e-12)
        term.update(step)
        term.update(step)  # with nothing gathered it is no update


def test_between_penalties_nothing_is_differentiated_twice(monkeypatch):
    slopes = []
    plain = adversarial_module.gradient_penalty
    monkeypatch.setattr(adversarial_module, "gradient_penalty", lambda *a: slopes.append(step) or plain(*a))
    term = adversarial(gan_loss="relativistic", penalty_every=3)
    for step in range(7):
        term.learn(scene())
        term.update(step)
    assert slopes == [0, 3, 6]


class Linear(nn.Module):
    """A discriminator whose slope is its weight everywhere."""

    stride = 1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 3, *SIZE))

    def forward(self, images):
        return (images * self.weight).sum((1, 2, 3)).view(-1, 1, 1, 1)


class Map(nn.Module):
    """A discriminator whose logits are means over squares of 8 pixels, of image and mask."""

    stride = 1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, images):
        return torch.nn.functional.avg_pool2d((images * self.weight).sum(1, keepdim=True), 8)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 10.0])
def test_r1_and_r2_of_a_linear_discriminator_are_its_squared_norm(penalty):
    """penalty / 2 * (R1 + R2) = penalty * |w|^2, so its gradient is 2 * penalty * w; a perfect fake adds none."""
    term, r = adversarial(gan_loss="relativistic", penalty=penalty), scene(mean=(0.0,) * 3, std=(1.0,) * 3)
    term.discriminator = Linear()
    term.learn(replaced(r, prediction=r.true_pixels))
    torch.testing.assert_close(term.discriminator.weight.grad, 2 * penalty * term.discriminator.weight.detach())


def test_the_penalty_does_not_depend_on_the_size_of_the_map():
    """Each image's slope is that of its mean logit: saying the same thing in more places costs no more."""
    gradients = []
    for copies in (1, 4):
        term, r = adversarial(gan_loss="relativistic"), scene(mean=(0.0,) * 3, std=(1.0,) * 3)
        term.discriminator = Linear()
        plain = term.discriminator.forward
        term.discriminator.forward = lambda images, f=plain, n=copies: f(images).expand(-1, 1, n, n)
        term.learn(replaced(r, prediction=r.true_pixels))
        gradients.append(term.discriminator.weight.grad)
    torch.testing.assert_close(*gradients)


def test_only_the_relativistic_loss_has_r2(gan_loss):
    """R1 is of the truths alone: other composites, of no slope of their own in the loss, leave it as it is."""
    term, r = adversarial(gan_loss=gan_loss, penalty=1.0), scene(mean=(0.0,) * 3, std=(1.0,) * 3)
    term.discriminator = Linear()
    term.learn(replaced(r, prediction=r.true_pixels))
    # Each of R1 and R2 is |w|^2; the gradients of the GAN losses themselves are subtracted.
    penalised = term.discriminator.weight.grad.clone()
    term.discriminator.weight.grad = None
    term.options.penalty = 0.0
    term.learn(replaced(r, prediction=r.true_pixels))
    expected = (2 if GAN_LOSSES[gan_loss].relative else 1) * term.discriminator.weight.detach()
    torch.testing.assert_close(penalised - term.discriminator.weight.grad, expected)


def test_a_mask_aware_discriminator_counts_hidden_patches_alone(gan_loss):
    """What stands in a visible patch, under truth and composite alike, has no weight; hidden ones have all."""
    mask = torch.ones(2, 24, dtype=torch.bool)
    mask[:, :12] = False  # the upper half is visible
    r = replaced(scene(mean=(0.0,) * 3, std=(1.0,) * 3), mask=mask, shift=(0.0, 0.0))
    term = adversarial(gan_loss=gan_loss, mask_aware=True)
    term.discriminator = Map()
    (true, seen_mask), (composite, _) = term._inputs(r, r.image), term._inputs(r, r.composite)
    real, fake = (term.discriminator(torch.cat([image, seen_mask], 1)) for image in (true, composite))
    weight = torch.nn.functional.adaptive_avg_pool2d(seen_mask, real.shape[2:])
    assert weight[:, :, 0].eq(0).all() and weight[:, :, -1].eq(1).all()
    below = weight > 0
    each = [
        GAN_LOSSES[gan_loss].generator(f[b][None], r[b][None], w[b][None])
        for f, r, b, w in zip(fake, real, below, weight, strict=True)
    ]
    expected = torch.stack(each).mean()
    torch.testing.assert_close(term.value(r), expected)


def test_a_mask_aware_discriminator_gets_the_mask():
    """Another mask changes an image's logits; truth and composite get the same mask."""
    torch.manual_seed(0)
    term, r, seen = adversarial(mask_aware=True), scene(), []
    term.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    term.learn(r)
    (images,) = seen
    assert images.shape[1] == 4
    torch.testing.assert_close(*images[:, 3].chunk(2))
    assert set(images[:, 3].unique().tolist()) == {0.0, 1.0}
    true, composite = images[:, :3].chunk(2)
    differs = (true != composite).any(1)
    assert differs.any() and (images[:2, 3][differs] == 1).all()


def test_the_discriminator_sees_images_in_minus_one_to_one():
    term, r, seen = adversarial(), scene(), []
    r = replaced(r, prediction=r.true_pixels)
    term.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    term.value(r)
    term.learn(r)
    assert [len(images) for images in seen] == [2, 4]
    for images in seen:
        assert images.min() >= -1 - 1e-6 and images.max() <= 1 + 1e-6
        assert images.min() < -0.9 and images.max() > 0.9
