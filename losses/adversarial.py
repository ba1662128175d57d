"""The adversarial term: a patch discriminator, its training, and warnings where that goes wrong."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from losses.critic import Critic
from losses.discriminator import PatchDiscriminator
from losses.features.distance import averaged, check_pool
from losses.finite import gradient_norm, step_unless
from losses.games import GAMES, weighted_mean
from losses.options import AdversarialOptions, FeatureMatchingOptions, InvalidSetting, nearest
from losses.reconstruction import Reconstruction
from losses.term import Surroundings


class Adversarial(Critic):
    """How real the composite looks to a convolutional patch discriminator (PatchGAN, Isola et al. 2017, 1611.07004).

    Reads the composite in [0, 1] (B, 3, H, W). Unit: the discriminator's logits. The discriminator is trained here, by
    Adam, on truth against composite. It trains alone until `generator_start`; from there the term's weight rises
    linearly to its full value at `generator_full`, both in fractions of the run.

    With `mask_aware` it reads a fourth channel, 1 where patches are hidden, of truth and composite alike, and each
    logit counts by the share of hidden pixels under it: visible patches are real in both, and would teach it nothing.
    (LaMa, Suvorov et al. 2021, arXiv 2109.07161, calls them real in the composite instead.)

    The gradient penalty (R1, Mescheder et al. 2018, arXiv 1801.04406; in the relativistic game R1 + R2) needs a second
    derivative, which takes most of its time. It is lazy as in StyleGAN2 (Karras et al. 2020, arXiv 1912.04958,
    appendix B): in every k-th update, times k. It stays within that update, so Adam's rates need none of that
    appendix's corrections.
    """

    Options = AdversarialOptions
    default_weight, default_is_share = Options.default_weight, Options.default_is_share
    name = "adversarial"

    def __init__(self, options: Any = None, surroundings: Surroundings | None = None):
        super().__init__(options, surroundings)
        o = self.options
        if o.game not in GAMES:
            raise InvalidSetting(
                f"unknown losses.{self.name}.game '{o.game}'{nearest(o.game, GAMES)} (games: {', '.join(GAMES)})"
            )
        if not 0 <= o.generator_start <= o.generator_full <= 1:
            raise InvalidSetting(
                f"losses.{self.name} needs 0 <= generator_start <= generator_full <= 1, "
                f"not {o.generator_start} and {o.generator_full}"
            )
        for name, least in {"width": 1, "lr": 0, "penalty": 0, "penalty_every": 1}.items():
            if not getattr(o, name) >= least:
                raise InvalidSetting(f"losses.{self.name}.{name}={getattr(o, name)} must be at least {least}")
        self.game = GAMES[o.game]
        self.discriminator = PatchDiscriminator(self.surroundings.image_size, o.width, inputs=4 if o.mask_aware else 3)
        self.check_crop(self.discriminator.least)
        if self.game.relative:  # which does not see it: its gradient is rounding, of which Adam would make whole steps
            self.discriminator.layers[-1].bias.requires_grad_(False)
        self.discriminator.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=o.lr, betas=(0.5, 0.99), fused=True)
        # Static shapes: a batch of both kinds is another graph than one of fakes, not a dynamic one for both.
        self.judge = torch.compile(_judge, dynamic=False) if self.surroundings.compiled else _judge
        self.pieces = 0  # micro-batches whose gradients are gathered
        self.updates = 0  # steps the discriminator has taken
        for name in ("real", "fake", "skipped"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("accuracy", torch.tensor(0.5))
        # Consecutive updates in which the smoothed accuracy was near 1, and near 1/2.
        self.register_buffer("certain", torch.zeros(()))
        self.register_buffer("blind", torch.zeros(()))

    def ramp(self, step: int) -> float:
        if self.surroundings.steps is None:
            return 1.0
        start, full = (f * self.surroundings.steps for f in (self.options.generator_start, self.options.generator_full))
        if step < start:
            return 0.0
        return 1.0 if step >= full else (step - start) / (full - start)

    def value(self, r: Reconstruction) -> Tensor:
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        with self._autocast(r):
            composite, mask = self._seen(r, r.judged_image)
            fake = self.judge(self.discriminator, frozen, composite, mask)
            with torch.no_grad():
                real = self.judge(self.discriminator, frozen, *self._seen(r, r.image)) if self.game.relative else None
        return self.game.generator(_wide(fake), None if real is None else _wide(real), self._counted(r, mask, fake))

    def learn(self, r: Reconstruction) -> None:
        penalised = self.options.penalty > 0 and self.updates % self.options.penalty_every == 0
        (true, mask), (composite, _) = self._seen(r, r.image), self._seen(r, r.judged_image)
        images = torch.cat([true, composite]).detach()
        masks = None if mask is None else torch.cat([mask, mask])
        live = dict(self.discriminator.named_parameters())
        # A second derivative wants full precision, and is more than torch.compile can give.
        judge = _judge if penalised else self.judge
        with torch.enable_grad():
            images.requires_grad_(penalised)
            with self._autocast(r, enabled=not penalised):
                logits = _wide(judge(self.discriminator, live, images, masks))
            real, fake = logits.chunk(2)
            counted = self._counted(r, mask, real)
            loss = self.game.discriminator(real, fake, counted)
            if penalised:  # over truths and composites, equally many, the mean is (R1 + R2) / 2, or R1 / 2
                penalty = self.options.penalty * self.options.penalty_every
                loss = loss + penalty * _squared_slope(logits if self.game.relative else real, images)
            loss.backward(inputs=self._trained())
        self.pieces += 1
        with torch.no_grad():
            self.real, self.fake = weighted_mean(real, counted), weighted_mean(fake, counted)
            accuracy = self.game.accuracy(real, fake, counted)
            self.accuracy = torch.lerp(self.accuracy, accuracy.to(self.accuracy.dtype), 0.02)

    def update(self, step: int) -> None:
        parameters = self._trained()
        self._share([p.grad for p in parameters])
        if self.pieces > 1:
            torch._foreach_div_([p.grad for p in parameters], self.pieces)
        bad = ~gradient_norm(parameters).isfinite()
        step_unless(self.optimizer, bad)
        self.optimizer.zero_grad()
        self.updates += self.pieces > 0
        self.pieces = 0
        self.skipped += bad
        self.certain = (self.certain + 1) * (self.accuracy > 0.98)
        # Being blind is only a failure once the discriminator has had its time alone.
        self.blind = (self.blind + 1) * ((self.accuracy - 0.5).abs() < 0.02) * float(self.ramp(step) == 1)

    def _share(self, gradients: list[Tensor]) -> None:
        """Takes in what the processes that share the batch have gathered: their gradients, and means of what is logged.

        Averaging the running means is exact: they are linear, and began alike.
        """
        processes = self.surroundings.processes
        if processes.count > 1 and self.pieces:
            logged = torch.stack([self.real, self.fake, self.accuracy]) / processes.count
            processes.all_reduce([*gradients, logged])
            self.real, self.fake, self.accuracy = logged.unbind()
            self.pieces *= processes.count

    def logs(self) -> dict[str, Tensor]:
        return {"real": self.real, "fake": self.fake, "accuracy": self.accuracy, "skipped": self.skipped}

    def warning(self) -> str | None:
        patience = 500 if self.surroundings.steps is None else min(500, max(50, self.surroundings.steps // 20))
        remedies = {"certain": f"lower losses.{self.name}.lr", "blind": f"raise losses.{self.name}.lr or width"}
        for state, remedy in remedies.items():
            if (updates := int(getattr(self, state))) >= patience:
                accuracy = f"accuracy {float(self.accuracy):.2f}"
                return f"the discriminator has been {state} for {updates} updates ({accuracy}); {remedy}"
        return None

    def state(self) -> dict[str, Any]:
        return {"module": self.state_dict(), "optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state(self, state: dict[str, Any]) -> None:
        self.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state.get("updates", 0)  # where it was not saved yet, every update had its penalty

    def _trained(self) -> list[Tensor]:
        return [p for p in self.discriminator.parameters() if p.requires_grad]

    def _seen(self, r: Reconstruction, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the discriminator sees: in [-1, 1], its grid shifted against the grid of patches; and the mask there."""
        seen = self.seen(r, image, self.discriminator.stride) * 2 - 1
        return seen.contiguous(memory_format=torch.channels_last), self._mask(r, image)

    def _mask(self, r: Reconstruction, image: Tensor) -> Tensor | None:
        """(b, 1, h, w), 1 where what is seen of the image was hidden; None where the discriminator is not told."""
        if not self.options.mask_aware:
            return None
        return self.seen(r, r.hidden_pixels.to(image.dtype), self.discriminator.stride)

    def _counted(self, r: Reconstruction, mask: Tensor | None, logits: Tensor) -> Tensor | None:
        """The weight of each logit: the share of judged pixels in its part of the window, as `logits` (b, 1, h, w)."""
        if mask is None or r.over == "all":
            return None
        return F.adaptive_avg_pool2d(mask, logits.shape[2:]).to(logits.dtype)

    def _autocast(self, r: Reconstruction, enabled: bool = True) -> torch.autocast:
        dtype = self.surroundings.dtype
        return torch.autocast(r.image.device.type, dtype, enabled=enabled and dtype != torch.float32)


class FeatureMatching(Adversarial):
    """Distance of composite and truth in the features of a discriminator that is trained beside (pix2pixHD, Wang et
    al. 2018, arXiv 1711.11585, section 3.2), averaged over squares of the image first.

    The mean absolute difference of each layer over the truth's mean absolute value, averaged over the layers. Compared
    position by position (`pool=1`), features of texture that falls elsewhere than in the truth are errors, and it is
    left out. Their means over squares are a texture's statistics, as those over a batch are in Salimans et al. 2016
    (arXiv 1606.03498, section 3.1): what the discriminator finds out of place in them, it teaches to be drawn. Nothing
    rewards being taken for real. Layers of a stride above half of `pool` are compared as they are. The discriminator is
    its own, not that of an adversarial term beside it.
    """

    Options = FeatureMatchingOptions
    default_weight, default_is_share = Options.default_weight, Options.default_is_share
    name = "feature_matching"

    def __init__(self, options: Any = None, surroundings: Surroundings | None = None):
        super().__init__(options, surroundings)
        side = self.options.crop or min(self.surroundings.image_size) - self.discriminator.stride + 1  # of what is seen
        check_pool(self.name, self.options.pool, side)

    def value(self, r: Reconstruction) -> Tensor:
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        with self._autocast(r):
            found = _features(self.discriminator, frozen, *self._seen(r, r.judged_image))
            with torch.no_grad():
                wanted = _features(self.discriminator, frozen, *self._seen(r, r.image))
        distances = []
        for a, b, stride in zip(found, wanted, self.discriminator.strides, strict=True):
            cell = min(max(1, self.options.pool // stride), *a.shape[2:])
            difference = averaged(_wide(a) - _wide(b), cell)
            # Each image over its own truth: no image sees another.
            distances.append((difference.abs().flatten(1).mean(1) / _wide(b).abs().flatten(1).mean(1)).mean())
        return torch.stack(distances).mean()


def _judge(
    net: PatchDiscriminator, parameters: Mapping[str, Tensor], images: Tensor, masks: Tensor | None = None
) -> Tensor:
    """The logits of (B, 3, H, W) under `parameters`: the net's own where it learns, constants where it judges."""
    if masks is not None:
        images = torch.cat([images, masks], dim=1)
    return functional_call(net, parameters, (images,))


def _features(
    net: PatchDiscriminator, parameters: Mapping[str, Tensor], images: Tensor, masks: Tensor | None = None
) -> list[Tensor]:
    """As `_judge`, the outputs of the layers before the logits."""
    if masks is not None:
        images = torch.cat([images, masks], dim=1)
    return functional_call(net, parameters, (images, True))


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _squared_slope(logits: Tensor, images: Tensor) -> Tensor:
    """Mean over `images` of ||d D / d image||^2: R1 over real ones, R2 over fakes; 0 for those that are not judged.

    D is the mean logit of an image's patches, so that the penalty does not depend on the size of the image's map.
    """
    per_image = logits.flatten(1).mean(1).sum()
    (slope,) = torch.autograd.grad(per_image, images, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()
