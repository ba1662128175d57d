"""The layers after the decoder that draw from a predicted distribution: a mixture's, and a flow's velocity network."""

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from losses.posterior import FlowHead, MixtureHead, random_times
from losses.reconstruction import Reconstruction, expand_to_pixels, patchify, unpatchify
from losses.tokens import TokensHead
from recon.config import seed_of
from recon.model.fitted import FittedComponents
from recon.model.layers import SHRINK, initialise_linear, zero_initialise

WIDTHS = (64, 128, 256)  # channels of the U-Net at a half, a quarter and an eighth of the resolution
BLOCKS = (1, 2, 2)  # residual blocks of its encoder at each resolution
SIDE_MULTIPLE = SHRINK * 2 ** (len(WIDTHS) - 1)  # image sides are multiples of it
TIME_WIDTH = 128  # values that encode the time


class MixtureLayers(FittedComponents):
    """Predicts the parameters of every patch's mixture from the decoder's features, through one hidden layer.

    At initialisation all Gaussians are as wide as the data and centred near the decoder's prediction, their mean.
    """

    def __init__(self, head: MixtureHead, width: int, patch_size: int):
        values = 3 * patch_size**2
        super().__init__(values)
        self.plain_head = head
        outputs = head.width(values) - values
        last = nn.Linear(2 * width, outputs)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), last)
        initialise_linear(self.layers)
        nn.init.zeros_(last.weight)
        # Gaussians with equal parameters would get equal gradients and stay equal.
        k, d = head.gaussians, head.component_count(values)
        means = 0.5 * torch.randn(k, d)
        last.bias.data[k : k + k * d] = (means - means.mean(0)).flatten()

    @property
    def head(self) -> MixtureHead:
        """The head with the principal components."""
        return replace(self.plain_head, basis=self.basis)

    def draw(self, r: Reconstruction, features: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """A sample, (B, N, P) standardised, of the prediction and the decoder's features (B, N, D) of every patch, by
        what `random_numbers` returns."""
        return self.head.sample_pixels(r.prediction, uniform, normal, r.std)

    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        """(B, n, P) pixels and (B, n, D) features of the same patches -> (B, n, W)."""
        return torch.cat([prediction, self.layers(features)], dim=-1)


class FlowLayers(nn.Module):
    """The velocity network of a `FlowHead`, and how a sample is drawn with it.

    The state is an image whose visible pixels are the truth at every time; the network also sees the mean of the hidden
    pixels and the decoder's features, of that `width`. No gradient flows into the mean, which its own squared error
    alone trains. `std` (3, 1, 1) is the data set's, by which images are standardised.
    """

    noise: Tensor

    def __init__(self, head: FlowHead, width: int, patch_size: int, image_size: tuple[int, int], std: Tensor):
        super().__init__()
        self.register_buffer("noise", head.noise / std, persistent=False)
        self.head, self.patch_size = head, patch_size
        self.grid = image_size[0] // patch_size, image_size[1] // patch_size
        self.network = ConvVelocity(width) if head.network == "conv" else PatchVelocity(width, patch_size)

    def forward(
        self, prediction: Tensor, features: Tensor, truth: Tensor, mask: Tensor, time: Tensor, noise: Tensor
    ) -> Tensor:
        """Mean, velocity at `time` and source of every patch, (B, N, 3P).

        Args:
            prediction: (B, N, P), the mean, standardised; visible patches are not read.
            features: (B, N, D) of the decoder.
            truth, noise: (B, 3, H, W), standardised.
            mask: (B, N) bool, True = hidden.
            time: (B,) in [0, 1].
        """
        covered = expand_to_pixels(mask, self.grid, self.patch_size)
        source, mean = self.source(prediction.detach(), truth, covered, noise)
        t = time.view(-1, 1, 1, 1)
        velocity = self.network((1 - t) * source + t * truth, mean, covered, features.mT.unflatten(2, self.grid), time)
        # A visible patch does not change: its velocity is 0.
        velocity = torch.where(covered, velocity.to(truth.dtype), 0)
        return torch.cat([prediction, *(patchify(x, self.patch_size) for x in (velocity, source))], dim=-1)

    def draw(self, r: Reconstruction, features: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """As `MixtureLayers.draw`, by the midpoint method: two evaluations of the network a step."""
        covered, truth = r.hidden_pixels, r.standardised_image
        x, mean = self.source(r.pixels, truth, covered, unpatchify(normal, self.grid))
        features, step = features.mT.unflatten(2, self.grid), 1 / self.head.steps

        def advance(begin: Tensor, at: Tensor, time: float, duration: float) -> Tensor:
            """`begin` moved for a duration with the velocity of the state `at` at a time."""
            velocity = self.network(at, mean, covered, features, at.new_full((len(at),), time))
            return torch.where(covered, begin + duration * velocity.to(begin.dtype), truth)

        for i in range(self.head.steps):
            half = advance(x, x, i * step, step / 2)
            x = advance(x, half, (i + 0.5) * step, step)
        return patchify(x, self.patch_size)

    def source(self, prediction: Tensor, truth: Tensor, covered: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The flow's source and the mean, both with the truth in visible patches: two (B, 3, H, W)."""
        mean = torch.where(covered, unpatchify(prediction, self.grid).to(truth.dtype), truth)
        begin = noise if self.head.source == "noise" else mean + self.noise * noise
        return torch.where(covered, begin.to(truth.dtype), truth), mean


class ConvVelocity(nn.Module):
    """A U-Net over the whole image, so that neighbouring hidden patches are drawn together and match at their borders.

    The decoder's features enter at an eighth of the resolution, interpolated where patches are smaller. The last layer
    is zero at initialisation.
    """

    def __init__(self, features: int):
        super().__init__()
        self.time = nn.Sequential(
            nn.Linear(TIME_WIDTH, TIME_WIDTH), nn.SiLU(), nn.Linear(TIME_WIDTH, TIME_WIDTH), nn.SiLU()
        )
        self.inputs = nn.Conv2d(7 * SHRINK**2, WIDTHS[0], 3, padding=1)
        self.features = nn.Conv2d(features, WIDTHS[-1], 1)
        self.before = nn.ModuleList(
            nn.ModuleList(Residual(c) for _ in range(n)) for c, n in zip(WIDTHS, BLOCKS, strict=True)
        )
        pairs = list(itertools.pairwise(WIDTHS))
        self.down = nn.ModuleList(nn.Conv2d(4 * wide, narrow, 1) for wide, narrow in pairs)
        self.up = nn.ModuleList(nn.Conv2d(narrow, wide, 1) for wide, narrow in pairs)
        self.join = nn.ModuleList(nn.Conv2d(2 * wide, wide, 1) for wide, _ in pairs)
        self.after = nn.ModuleList(Residual(wide) for wide, _ in pairs)
        self.outputs = nn.Conv2d(WIDTHS[0], 3 * SHRINK**2, 3, padding=1)
        zero_initialise(self.outputs)

    def forward(self, x: Tensor, mean: Tensor, covered: Tensor, features: Tensor, time: Tensor) -> Tensor:
        """Velocity (B, 3, H, W).

        Args:
            x, mean: (B, 3, H, W), the state and the mean, with the truth in visible patches.
            covered: (B, 1, H, W) bool, True where hidden.
            features: (B, D, rows, columns), the decoder's.
            time: (B,) in [0, 1].
        """
        when = self.time(encode_time(time).to(features.dtype))
        x = F.pixel_unshuffle(torch.cat([x, mean, covered.to(x.dtype)], dim=1), SHRINK)
        x, skipped = self.inputs(x.contiguous(memory_format=torch.channels_last)), []
        for level, blocks in enumerate(self.before):
            if level:
                x = self.down[level - 1](F.pixel_unshuffle(x, 2))
            if level == len(WIDTHS) - 1:
                x = x + F.interpolate(self.features(features), size=x.shape[2:], mode="bilinear")
            for block in blocks.children():
                x = block(x, when)
            skipped.append(x)
        for level in reversed(range(len(self.up))):
            above = F.interpolate(self.up[level](x), scale_factor=2, mode="bilinear")
            x = self.after[level](self.join[level](torch.cat([above, skipped[level]], dim=1)), when)
        return F.pixel_shuffle(self.outputs(F.silu(x)), SHRINK)


class Residual(nn.Module):
    """x plus two 3x3 convolutions of it, scaled and shifted by the time between them."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.when = nn.Linear(TIME_WIDTH, 2 * width)

    def forward(self, x: Tensor, when: Tensor) -> Tensor:
        scale, shift = self.when(when)[..., None, None].chunk(2, dim=1)
        inside = self.norms[1](self.convs[0](F.silu(self.norms[0](x)))) * (1 + scale) + shift
        return x + self.convs[1](F.silu(inside))


class PatchVelocity(nn.Module):
    """An MLP on every patch by itself, given the decoder's feature: cheap, but neighbouring patches do not match.

    The network of the per-token loss of MAR (Li et al. 2024, arXiv 2406.11838, section 3.2): residual blocks of two
    layers, whose norm the condition scales and shifts.
    """

    WIDTH, DEPTH = 512, 3

    def __init__(self, features: int, patch_size: int):
        super().__init__()
        self.patch_size, values = patch_size, 3 * patch_size**2
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, self.WIDTH), nn.SiLU(), nn.Linear(self.WIDTH, self.WIDTH))
        self.features = nn.Linear(features, self.WIDTH)
        self.inputs = nn.Linear(2 * values, self.WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(self.WIDTH, elementwise_affine=False) for _ in range(self.DEPTH))
        self.when = nn.ModuleList(nn.Linear(self.WIDTH, 3 * self.WIDTH) for _ in range(self.DEPTH))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(self.WIDTH, self.WIDTH), nn.SiLU(), nn.Linear(self.WIDTH, self.WIDTH))
            for _ in range(self.DEPTH)
        )
        self.outputs = nn.Linear(self.WIDTH, values)
        zero_initialise(self.outputs)

    def forward(self, x: Tensor, mean: Tensor, covered: Tensor, features: Tensor, time: Tensor) -> Tensor:
        """As `ConvVelocity.forward`."""
        condition = F.silu(
            self.features(features.flatten(2).mT) + self.time(encode_time(time).to(features.dtype))[:, None]
        )
        x, mean = (patchify(image, self.patch_size) for image in (x, mean))
        x = self.inputs(torch.cat([x, mean], dim=-1))
        for norm, when, layers in zip(self.norms, self.when, self.layers, strict=True):
            scale, shift, gate = when(condition).chunk(3, dim=-1)
            x = x + gate * layers(norm(x) * (1 + scale) + shift)
        return unpatchify(self.outputs(F.silu(x)), (features.shape[2], features.shape[3]))


def encode_time(time: Tensor) -> Tensor:
    """Sines and cosines of times (B,) in [0, 1], of 0.01 to 10 periods: (B, TIME_WIDTH)."""
    frequency = 2 * math.pi * torch.logspace(-2, 1, TIME_WIDTH // 2, device=time.device)
    angle = time.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def time_and_noise(images: Tensor) -> tuple[Tensor, Tensor]:
    """Times (B,) and noise (B, 3, H, W) of a training step, seeded by torch's CPU generator, drawn on the device.

    Processes that share a batch have the same state of that generator; each draws its own numbers.
    """
    rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    generator = torch.Generator(images.device).manual_seed(int(torch.randint(2**62, ())) + rank)
    time = random_times(len(images), generator)
    return time, torch.randn(images.shape, generator=generator, device=images.device)


def rendered_pixels(
    layers: MixtureLayers | FlowLayers | None, r: Reconstruction, features: Tensor, rendering: str, draw: int
) -> Tensor:
    """What `MaskedAutoencoder.render` shows, (B, N, P) standardised, of the prediction and the decoder's features
    (B, N, D) of every patch."""
    if rendering not in r.head.renderings:
        has = ", ".join(r.head.renderings) or "none: one answer to each image"
        raise ValueError(f"{r.head.name} has no rendering {rendering!r} ({has})")
    if rendering == "sample":
        uniform, normal = random_numbers(r.image, r.mask, draw)
        if isinstance(r.head, TokensHead):
            return r.head.sample_pixels(r, normal)
        assert layers is not None  # which every other distribution has
        return layers.draw(r, features, uniform, normal)
    if rendering == "mode":
        if isinstance(r.head, TokensHead):
            return r.head.mode_pixels(r)
        assert isinstance(r.head, MixtureHead)  # the only other head that has one
        return r.head.mode_pixels(r.prediction, r.values)
    return r.pixels


def random_numbers(images: Tensor, mask: Tensor, draw: int) -> tuple[Tensor, Tensor]:
    """What the `draw`-th sample of each image is made from: uniform numbers (B, N) and normal ones (B, N, P).

    They depend on the mask, the visible pixels and `draw` alone, not on the rest of the batch or the device.
    """
    patch_size = round((images[0, 0].numel() / mask.shape[1]) ** 0.5)
    hidden = expand_to_pixels(mask, (images.shape[2] // patch_size, images.shape[3] // patch_size), patch_size)
    visible = torch.where(hidden, 0, images).float().cpu().numpy()
    uniform, normal = [], []
    for image, row in zip(visible, mask.cpu().numpy(), strict=True):
        seed = seed_of("draw", draw, row.tobytes().hex(), image.tobytes().hex())
        generator = torch.Generator().manual_seed(seed)
        uniform.append(torch.rand(len(row), generator=generator))
        normal.append(torch.randn(len(row), 3 * patch_size**2, generator=generator))
    return torch.stack(uniform).to(images.device), torch.stack(normal).to(images.device)
