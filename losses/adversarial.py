"""The terms with a trained patch discriminator: adversarial and feature_matching."""

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from losses.features.vgg19 import pooled
from losses.gan import GAN_LOSSES, PatchDiscriminator, gradient_penalty, weighted_mean
from losses.options import AdversarialOptions, FeatureMatchingOptions, InvalidSetting
from losses.reconstruction import Reconstruction
from losses.term import Critic, TermContext, gradient_norm, step_unless, widened


class Adversarial(Critic):
    """How real the composite looks to a convolutional patch discriminator (PatchGAN, Isola et al. 2017, 1611.07004).

    Reads the composite in [0, 1] (B, 3, H, W). Unit: the discriminator's logits. The term trains the discriminator by
    Adam on truth against composite: alone until `generator_start`, from where the term's weight rises linearly to its
    full value at `generator_full`.

    With `mask_aware` the discriminator gets a fourth channel, 1 for hidden pixels, for truth and composite alike, and
    each logit is weighted by the share of hidden pixels under it: visible patches are real in both, and would teach it
    nothing. (LaMa, Suvorov et al. 2021, arXiv 2109.07161, labels them real in the composite instead.)

    The gradient penalty (R1, Mescheder et al. 2018, arXiv 1801.04406; R1 + R2 for the relativistic loss) takes most of
    the discriminator's time. It is lazy as in StyleGAN2 (Karras et al. 2020, arXiv 1912.04958, appendix B): in every
    k-th update, times k. It is added within that update, so Adam's rates need none of that appendix's corrections.
    """

    Options = AdversarialOptions
    name = "adversarial"
    # Buffers: mean logits of the last update, smoothed accuracy, and how many updates were skipped.
    real: Tensor
    fake: Tensor
    accuracy: Tensor
    skipped: Tensor
    # Consecutive updates in which the accuracy was near 1, and near 1/2.
    certain: Tensor
    blind: Tensor

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        o = self.options
        if o.generator_start > o.generator_full:
            raise InvalidSetting(
                f"losses.{self.name} needs generator_start <= generator_full, not {o.generator_start} and "
                f"{o.generator_full}"
            )
        self.gan_loss = GAN_LOSSES[o.gan_loss]
        self.discriminator = PatchDiscriminator(self.context.image_size, o.width, inputs=4 if o.mask_aware else 3)
        self.check_crop(self.discriminator.least)
        if self.gan_loss.relative:  # cancels the last bias: its gradient is rounding error, which Adam would amplify
            next(reversed(list(self.discriminator.parameters()))).requires_grad_(False)
        self.discriminator.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=o.lr, betas=(0.5, 0.99), fused=True)
        # Static shapes: one graph for a batch of real and fake images, one for fakes, not a dynamic one for both.
        self.discriminate = torch.compile(_discriminate, dynamic=False) if self.context.compiled else _discriminate
        self.micro_batches = 0  # whose gradients are accumulated
        self.updates = 0  # steps that the discriminator has taken
        for name in ("real", "fake", "skipped", "accuracy", "certain", "blind"):
            self.register_buffer(name, torch.tensor(0.5 if name == "accuracy" else 0.0))

    def ramp(self, step: int) -> float:
        if self.context.steps is None:
            return 1.0
        start, full = (f * self.context.steps for f in (self.options.generator_start, self.options.generator_full))
        return float(step >= full) if full == start else min(1.0, max(0.0, (step - start) / (full - start)))

    def value(self, r: Reconstruction) -> Tensor:
        frozen = self._frozen()
        with self.autocast(r):
            composite, mask = self._inputs(r, r.judged_image)
            fake = widened(self.discriminate(self.discriminator, frozen, composite, mask))
            real = None
            if self.gan_loss.relative:
                with torch.no_grad():
                    real = widened(self.discriminate(self.discriminator, frozen, *self._inputs(r, r.image)))
        return self.gan_loss.generator(fake, real, self._logit_weights(r, mask, fake))

    def learn(self, r: Reconstruction) -> None:
        penalised = self.options.penalty > 0 and self.updates % self.options.penalty_every == 0
        (true, mask), (composite, _) = self._inputs(r, r.image), self._inputs(r, r.judged_image)
        images = torch.cat([true, composite]).detach()
        masks = None if mask is None else torch.cat([mask, mask])
        parameters: dict[str, Tensor] = dict(self.discriminator.named_parameters())
        # The penalty's second derivative needs full precision, and torch.compile does not support it.
        discriminate = _discriminate if penalised else self.discriminate
        with torch.enable_grad():
            images.requires_grad_(penalised)
            with self.autocast(r, enabled=not penalised):
                logits = widened(discriminate(self.discriminator, parameters, images, masks))
            real, fake = logits.chunk(2)
            weights = self._logit_weights(r, mask, real)
            loss = self.gan_loss.discriminator(real, fake, weights)
            if penalised:  # the mean over as many truths as composites is (R1 + R2) / 2, or R1 / 2
                penalty = self.options.penalty * self.options.penalty_every
                loss = loss + penalty * gradient_penalty(logits if self.gan_loss.relative else real, images)
            loss.backward(inputs=self._trainable())
        self.micro_batches += 1
        with torch.no_grad():
            self.real, self.fake = weighted_mean(real, weights), weighted_mean(fake, weights)
            accuracy = self.gan_loss.accuracy(real, fake, weights)
            self.accuracy = torch.lerp(self.accuracy, accuracy.to(self.accuracy.dtype), 0.02)

    def update(self, step: int) -> None:
        parameters = self._trainable()
        gradients = [p.grad for p in parameters if p.grad is not None]
        self._all_reduce(gradients)
        if self.micro_batches > 1:
            torch._foreach_div_(gradients, self.micro_batches)
        bad = ~gradient_norm(parameters).isfinite()
        step_unless(self.optimizer, bad)
        self.optimizer.zero_grad()
        self.updates += self.micro_batches > 0
        self.micro_batches = 0
        self.skipped += bad
        self.certain = (self.certain + 1) * (self.accuracy > 0.98)
        # An accuracy near 1/2 counts only after the time in which the discriminator trains alone.
        self.blind = (self.blind + 1) * ((self.accuracy - 0.5).abs() < 0.02) * float(self.ramp(step) == 1)

    def _all_reduce(self, gradients: list[Tensor]) -> None:
        """Sums gradients, and averages logged numbers, over the processes that share the batch. For the running means
        that is exact: they are linear, and started from the same values."""
        processes = self.context.processes
        if processes.count > 1 and self.micro_batches:
            logged = torch.stack([self.real, self.fake, self.accuracy]) / processes.count
            processes.all_reduce([*gradients, logged])
            self.real, self.fake, self.accuracy = logged.unbind()
            self.micro_batches *= processes.count

    def logs(self) -> dict[str, Tensor]:
        return {"real": self.real, "fake": self.fake, "accuracy": self.accuracy, "skipped": self.skipped}

    def warning(self) -> str | None:
        updates_before_warning = 500 if self.context.steps is None else min(500, max(50, self.context.steps // 20))
        remedies = {"certain": f"lower losses.{self.name}.lr", "blind": f"raise losses.{self.name}.lr or width"}
        for state, remedy in remedies.items():
            if (updates := int(getattr(self, state))) >= updates_before_warning:
                accuracy = f"accuracy {float(self.accuracy):.2f}"
                return f"the discriminator has been {state} for {updates} updates ({accuracy}); {remedy}"
        return None

    def state(self) -> dict[str, Any]:
        return {"module": self.state_dict(), "optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state(self, state: dict[str, Any]) -> None:
        self.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state.get("updates", 0)  # older states lack it; their every update had the penalty

    def _trainable(self) -> list[Tensor]:
        return [p for p in self.discriminator.parameters() if p.requires_grad]

    def _frozen(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.discriminator.named_parameters()}

    def _inputs(self, r: Reconstruction, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """The sampled images in [-1, 1], and their mask (b, 1, h, w) with `mask_aware`."""
        stride = self.discriminator.stride
        mask = self.sampled(r, r.hidden_pixels.to(image.dtype), stride) if self.options.mask_aware else None
        images = self.sampled(r, image, stride) * 2 - 1
        return images.contiguous(memory_format=torch.channels_last), mask

    def _logit_weights(self, r: Reconstruction, mask: Tensor | None, logits: Tensor) -> Tensor | None:
        """The share of hidden pixels under each logit, (b, 1, h, w); None: all logits count equally."""
        if mask is None or r.over == "all":
            return None
        return F.adaptive_avg_pool2d(mask, (logits.shape[2], logits.shape[3])).to(logits.dtype)


class FeatureMatching(Adversarial):
    """Distance of composite and truth in the features of a discriminator that the term trains (pix2pixHD, Wang et
    al. 2018, arXiv 1711.11585, section 3.2), averaged over squares of the image first.

    The mean absolute difference of each layer over the truth's mean absolute value, averaged over the layers. Compared
    position by position (`pool=1`), texture at other positions than in the truth is an error, so the model omits it.
    Means over squares are texture statistics, as means over a batch are in Salimans et al. 2016 (arXiv 1606.03498,
    section 3.1): the model learns to draw them, but is not rewarded for fooling the discriminator. Layers of a stride
    above half of `pool` are compared as they are. The discriminator is the term's own, not an adversarial term's.
    """

    Options = FeatureMatchingOptions
    name = "feature_matching"

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        self.check_pool(self.discriminator.stride)

    def value(self, r: Reconstruction) -> Tensor:
        frozen = self._frozen()
        with self.autocast(r):
            found = _discriminate(self.discriminator, frozen, *self._inputs(r, r.judged_image), features=True)
            with torch.no_grad():
                wanted = _discriminate(self.discriminator, frozen, *self._inputs(r, r.image), features=True)
        distances = []
        for a, b, stride in zip(found, wanted, self.discriminator.strides, strict=True):
            difference = pooled(widened(a) - widened(b), self.options.pool // stride)
            # Each image is divided by its own truth's mean, so that it does not depend on the batch.
            distances.append((difference.abs().flatten(1).mean(1) / widened(b).abs().flatten(1).mean(1)).mean())
        return torch.stack(distances).mean()


def _discriminate(
    net: PatchDiscriminator,
    parameters: dict[str, Tensor],
    images: Tensor,
    masks: Tensor | None = None,
    features: bool = False,
) -> Any:
    """The logits, or features, of images (B, 3, H, W) under `parameters`: those of the net, or detached ones."""
    if masks is not None:
        images = torch.cat([images, masks], dim=1)
    return functional_call(net, parameters, (images, True) if features else (images,))
