"""The masked autoencoder of He et al. 2021 (arXiv 2111.06377)."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from losses.heads import PixelHead
from losses.reconstruction import Reconstruction
from losses.statistics import IMAGENET_MEAN, IMAGENET_STD
from recon.model import velocity
from recon.model.distributions import MixtureLayers, chance_of, layers_for
from recon.model.layers import (
    LayerNorm,
    Refiner,
    initialise_linear,
    sincos_positions,
    statistics_head,
    transformer_blocks,
)
from recon.model.masking import kept, mask_from_noise, strategy

BESIDE = ("statistics.", "refiner.", "distribution.")  # of tensors of layers beside the decoder, in their names


def decoder_parts(mask_tokens: str) -> tuple[str, ...]:
    """What names of tensors begin with that are no part of the encoder; mask tokens are, where it sees them."""
    parts = ("decoder_", *BESIDE)
    return (*parts, "mask_token") if mask_tokens == "decoder" else parts


class MaskedAutoencoder(nn.Module):
    """Sees the visible patches, and predicts the hidden ones.

    The encoder is a timm ViT by names and shapes; all names are the official MAE code's, so its checkpoints load.

    Args:
        image_size: (H, W), multiples of the patch size.
        patch_size: p, in pixels.
        width, depth, heads: of the encoder; `mlp_ratio` 4.
        decoder_width, decoder_depth, decoder_heads: of the decoder.
        head: what the decoder's last layer puts out; see `losses.heads`.
        mask_tokens: "decoder" (the paper's way: the encoder sees visible patches alone) or "encoder" (its ablation,
            table 1c: the encoder sees mask tokens too).
        refiner_width: channels of the convolutional network that corrects hidden patches where they meet (see
            `recon.model.layers`); 0, as in the paper: there is none.
        mask_strategy, mask_ratio: how `forward` hides patches where it is not told.
        gradient_checkpointing: blocks keep their inputs alone and run again for the gradients (Chen et al. 2016, arXiv
            1604.06174): the same gradients to the bit for about a third more work, and far less memory.
        mean, std: per channel; images are standardised by them.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        head: PixelHead | None = None,
        mask_tokens: str = "decoder",
        refiner_width: int = 0,
        mask_strategy: str = "random",
        mask_ratio: float = 0.75,
        gradient_checkpointing: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        super().__init__()
        self.head = head or PixelHead()
        self.grid = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.image_size, self.patch_size, self.mask_tokens = image_size, patch_size, mask_tokens
        self.mask_strategy, self.mask_ratio = strategy(mask_strategy), mask_ratio
        self.gradient_checkpointing = gradient_checkpointing
        self.frozen: tuple[str, ...] = ()  # of encoder and decoder, what keeps nothing for a backward
        self.patches = self.grid[0] * self.grid[1]
        values = 3 * patch_size**2

        self.patch_embed = PatchEmbed(image_size, patch_size, 3, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", sincos_positions(width, self.grid))
        self.blocks = transformer_blocks(depth, width, heads)
        self.norm = LayerNorm(width)

        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width if mask_tokens == "decoder" else width))
        self.register_buffer("decoder_pos_embed", sincos_positions(decoder_width, self.grid))
        self.decoder_blocks = transformer_blocks(decoder_depth, decoder_width, decoder_heads)
        self.decoder_norm = LayerNorm(decoder_width)
        self.decoder_pred = nn.Linear(decoder_width, values)

        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.register_load_state_dict_pre_hook(_keep_own_positions)
        self._initialise()
        # Last, so that one seed gives one encoder and decoder under every head.
        self.statistics = statistics_head(decoder_width, self.head.statistics) if self.head.statistics else None
        self.refiner = Refiner(refiner_width, image_size) if refiner_width else None
        self.distribution = layers_for(self.head, decoder_width, patch_size, image_size, std)

    def forward(
        self, images: Tensor, mask: Tensor | None = None, noise: Tensor | None = None, decoded: float | None = None
    ) -> Reconstruction:
        """Hides patches of (B, 3, H, W) in [0, 1] and predicts them.

        Args:
            mask: (B, N) bool, True = hidden, the same number in every row.
            noise: (B, N); the `int(N * (1 - ratio))` lowest of each row stay visible, ties by position.
                With neither, the model's own strategy draws from torch's CPU generator.
            decoded: None: every patch is predicted, visible ones too. 1: hidden ones alone. Less: that share of them,
                those with the lowest noise; the others have no mask token, as in CrossMAE (Fu et al. 2024, arXiv
                2401.14391, section 3.3; its mask tokens do not see each other, these do). Needs noise.

        Raises:
            ValueError: rows that hide unequally; a share to decode, and no noise, or a refiner, which needs all.
        """
        if noise is None and mask is None:
            noise = torch.stack([self.mask_strategy(self.grid, self.mask_ratio, None) for _ in images])
        if mask is None:
            visible = kept(self.patches, self.mask_ratio)
            mask = mask_from_noise(noise.to(images.device), visible)
        else:
            visible = _visible_count(mask)
        shown, order = self.patches, mask.to(torch.uint8)  # visible patches first, each kind in its order
        if decoded is not None and decoded < 1:
            if noise is None:
                raise ValueError(f"decoded={decoded} of the hidden patches are those with the lowest noise; give noise")
            if self.refiner is not None or isinstance(self.distribution, velocity.FlowLayers):
                reads = "the refiner" if self.refiner is not None else "a flow"
                raise ValueError(f"decoded={decoded} leaves holes in the image, and {reads} reads all of it")
            shown = visible + max(1, round(decoded * (self.patches - visible)))
            order += mask_from_noise(noise.to(images.device), shown)
        order = order.argsort(dim=1, stable=True)[:, :shown]
        learning = self.training and torch.is_grad_enabled()  # a picture on the way moves no generator
        chance = velocity.chance(images) if learning and isinstance(self.distribution, velocity.FlowLayers) else None
        prediction = self.predict(images, mask, order, visible, decoded is None, chance)
        where = None if decoded is None else order[:, visible:]
        return self._reconstruction(prediction, images, mask, where=where)

    @torch.no_grad()
    def render(self, images: Tensor, mask: Tensor, rendering: str, draw: int = 0) -> Reconstruction:
        """One answer of a predicted distribution, as pixels, for every patch.

        Args:
            images: (B, 3, H, W) in [0, 1].
            mask: (B, N) bool, True = hidden, the same number in every row.
            rendering: "mean", "mode" or "sample", of the head's `renderings`.
            draw: which sample: the number, the mask and the visible pixels tell all that is drawn by chance.

        Raises:
            ValueError: the head has no such rendering.
        """
        if rendering not in self.head.renderings:
            has = ", ".join(self.head.renderings) or "none: one answer to each image"
            raise ValueError(f"{self.head.name} has no rendering {rendering!r} ({has})")
        order = mask.to(torch.uint8).argsort(dim=1, stable=True)
        features = self._features(images, mask, order, _visible_count(mask), everywhere=True)
        r = self._reconstruction(self._beside(self.decoder_pred(features), features), images, mask)
        if rendering == "sample":
            pixels = self.distribution.draw(r, features, *chance_of(images, mask, draw))
        else:
            pixels = r.pixels if rendering == "mean" else r.head.mode_pixels(r)
        return Reconstruction(pixels, images, mask, mean=self.mean, std=self.std)

    def predict(
        self,
        images: Tensor,
        mask: Tensor,
        order: Tensor,
        visible: int,
        everywhere: bool,
        chance: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The prediction alone.

        Args:
            mask: (B, N) bool, True = hidden.
            order: (B, n), the patches that the decoder sees: the `visible` ones, then those to be predicted.
            everywhere: predict (B, N, W), every patch in its place; otherwise (B, n - visible, W).
            chance: the times (B,) and the noise (B, 3, H, W) at which a flow is learnt.
        """
        features = self._features(images, mask, order, visible, everywhere or chance is not None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "decoder" not in self.frozen):
            prediction = self.decoder_pred(features)
        if self.refiner is not None:
            return self._refined(prediction, images, mask, order[:, visible:], everywhere)
        if chance is None:
            return self._beside(prediction, features)
        prediction = self.distribution(prediction, features, (images - self.mean) / self.std, mask, *chance)
        return prediction if everywhere else _gather(prediction, order[:, visible:])

    def encode(self, images: Tensor) -> Tensor:
        """Class token and patch tokens of whole images, no masking: (B, 3, H, W) in [0, 1] -> (B, 1 + N, D)."""
        return self._encoder(self._embedded(images))

    def encode_layers(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """As `encode`, but after each of the blocks `layers`, counted from 1 and rising; the encoder stops at the last.

        The final norm is applied to each, as DINOv2's `get_intermediate_layers` does (Oquab et al. 2023, arXiv
        2304.07193), so that the last block's is `encode`'s.
        """
        x, found = self._with_class_token(self._embedded(images)), []
        for number, block in enumerate(self.blocks[: layers[-1]], start=1):
            x = block(x)
            if number in layers:
                found.append(self.norm(x))
        return found

    def train_only(self, part: str) -> None:
        """From here on the "decoder" (with what is beside it), the "refiner" or the "head" (the layers of a predicted
        distribution) alone can be trained; what comes before is frozen."""
        self.frozen = ("encoder",) if part == "decoder" else ("encoder", "decoder")
        alone = {"refiner": ("refiner.",), "head": ("distribution.",)}
        trained = alone.get(part) or decoder_parts(self.mask_tokens)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(trained))

    def untrained(self, seed: int) -> "MaskedAutoencoder":
        """A copy as it would be before any training: weights drawn anew, on the model's own device."""
        copy = deepcopy(self)
        statistics, copy.statistics, copy.refiner = copy.statistics, None, None  # last, as above
        copy.distribution = None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for module in copy.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            copy._initialise()
            if statistics is not None:
                initialise_linear(statistics)
            if self.refiner is not None:
                copy.refiner = Refiner(self.refiner.width, self.image_size).to(self.mean)
            if self.distribution is not None:
                width, std = self.decoder_pred.in_features, self.std.flatten().tolist()
                copy.distribution = layers_for(self.head, width, self.patch_size, self.image_size, std).to(self.mean)
                copy.distribution.load_state_dict(dict(self.distribution.named_buffers()), strict=False)
        copy.statistics = statistics
        return copy

    def _embedded(self, images: Tensor) -> Tensor:
        """Patch tokens with their positions, (B, N, D)."""
        return self.patch_embed((images - self.mean) / self.std) + self.pos_embed[:, 1:]

    def _embedded_at(self, images: Tensor, positions: Tensor) -> Tensor:
        """As `_embedded`, but of the patches at `positions` (B, n) alone: (B, n, D).

        The convolution, whose windows do not overlap, as a product with the patches that are wanted.
        """
        (rows, columns), p = self.grid, self.patch_size
        patches = images.unflatten(3, (columns, p)).unflatten(2, (rows, p)).permute(0, 2, 4, 1, 3, 5)
        of = torch.arange(len(images), device=images.device).unsqueeze(1)
        patches = (patches[of, positions // columns, positions % columns] - self.mean) / self.std
        embedding = self.patch_embed.proj
        tokens = nn.functional.linear(patches.flatten(2), embedding.weight.flatten(1), embedding.bias)
        return tokens + self.pos_embed[0, 1 + positions]

    def _encoder(self, tokens: Tensor) -> Tensor:
        """Class token put before (B, n, D), through all blocks: (B, 1 + n, D)."""
        return self.norm(self._through(self.blocks, self._with_class_token(tokens)))

    def _with_class_token(self, tokens: Tensor) -> Tensor:
        return torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], dim=1)

    def _encode_masked(self, images: Tensor, mask: Tensor, visible: Tensor) -> Tensor:
        """The encoder's tokens of the visible patches; under mask_tokens=encoder of all, in the images' order."""
        if self.mask_tokens == "encoder":
            tokens = self.patch_embed((images - self.mean) / self.std)
            tokens = torch.where(mask.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens) + self.pos_embed[:, 1:]
            return self._encoder(tokens)
        return self._encoder(self._embedded_at(images, visible))

    def _decode(self, tokens: Tensor, order: Tensor) -> Tensor:
        """The decoder's tokens (B, 1 + n, D) of class token and the patches in `order` (B, n)."""
        x = self.decoder_embed(tokens)
        if self.mask_tokens == "decoder":
            hidden = 1 + order.shape[1] - x.shape[1]
            x = torch.cat([x, self.mask_token.to(x.dtype).expand(len(x), hidden, -1)], dim=1)
        else:
            x = torch.cat([x[:, :1], _gather(x[:, 1:], order)], dim=1)
        # Tokens come in any order, each with the position of its own patch: attention does not see the order.
        positions = self.decoder_pos_embed[0]
        x = x + torch.cat([positions[:1].expand(len(x), 1, -1), positions[1:][order]], dim=1)
        return self._through(self.decoder_blocks, x)

    def _refined(self, prediction: Tensor, images: Tensor, mask: Tensor, hidden: Tensor, everywhere: bool) -> Tensor:
        """The prediction, (B, N, P) where it is `everywhere`, with the patches `hidden` (B, n) corrected."""
        truth = (images - self.mean) / self.std
        if not everywhere:
            return self.refiner(prediction, truth, mask, hidden)
        at = hidden.unsqueeze(-1).expand(-1, -1, prediction.shape[-1])
        prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        return prediction.scatter(1, at, self.refiner(prediction.gather(1, at), truth, mask, hidden))

    def _features(self, images: Tensor, mask: Tensor, order: Tensor, visible: int, everywhere: bool) -> Tensor:
        """What the decoder's last layer reads, of every patch in its place, or of those that are not visible."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and "encoder" not in self.frozen):
            tokens = self._encode_masked(images, mask, order[:, :visible])
        with torch.set_grad_enabled(torch.is_grad_enabled() and "decoder" not in self.frozen):
            x = self._decode(tokens, order)
            x = self.decoder_norm(x[:, 1:] if everywhere else x[:, 1 + visible :])
            return _gather(x, order.argsort(dim=1)) if everywhere else x

    def _beside(self, prediction: Tensor, features: Tensor) -> Tensor:
        """The prediction with what layers beside the decoder add to each patch by itself."""
        if isinstance(self.distribution, MixtureLayers):
            return self.distribution(prediction, features)
        if self.statistics is None:
            return prediction
        # Detached: what the head learns about statistics teaches the model nothing.
        return torch.cat([prediction, self.statistics(features.detach())], dim=-1)

    def _reconstruction(
        self, prediction: Tensor, images: Tensor, mask: Tensor, where: Tensor | None = None
    ) -> Reconstruction:
        head = self.head if self.distribution is None else self.distribution.head
        return Reconstruction(prediction, images, mask, head, self.mean, self.std, where=where)

    def _through(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        for block in blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)  # chance too: fine-tuning drops paths
            else:
                x = block(x)
        return x

    def _initialise(self) -> None:
        """As the official code: Xavier-uniform matrices (patch embedding too), zero biases of linear layers, N(0, 0.02)
        tokens."""
        initialise_linear(self)
        embedding = self.patch_embed.proj.weight
        nn.init.xavier_uniform_(embedding.data.view(embedding.shape[0], -1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)


def _gather(tokens: Tensor, positions: Tensor) -> Tensor:
    """(B, N, D) at (B, n) -> (B, n, D)."""
    return tokens.gather(1, positions.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def _visible_count(mask: Tensor) -> int:
    counts = (~mask).sum(dim=1).unique()  # waits for the device; training gives noise, not masks
    if len(counts) != 1:
        raise ValueError(f"every image must hide the same number of patches, not {counts.tolist()} visible")
    return int(counts)


def _keep_own_positions(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Positions are a formula, not weights: a checkpoint of another image size brings none."""
    for name in ("pos_embed", "decoder_pos_embed"):
        if prefix + name in state:
            state[prefix + name] = getattr(module, name)
