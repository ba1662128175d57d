"""The masked autoencoder of He et al. 2021 (arXiv 2111.06377)."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from losses.heads import PixelHead
from losses.posterior import FlowHead, MixtureHead
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD, Reconstruction
from recon.model.corruption import corruption_of
from recon.model.distributions import FlowLayers, MixtureLayers, rendered_pixels, time_and_noise
from recon.model.fitted import target_of
from recon.model.layers import (
    LayerNorm,
    Refiner,
    ViTEncoder,
    gather_tokens,
    initialise_linear,
    sincos_positions,
    transformer_blocks,
)
from recon.model.masking import count_visible, decoding_order, mask_from_noise, strategy, visible_count

# Name prefixes of what comes after the decoder.
EXTRA_LAYERS = ("statistics.", "refiner.", "distribution.", "target.", "corruption.")


def decoder_prefixes(mask_tokens: str) -> tuple[str, ...]:
    """Name prefixes of the tensors that do not belong to the encoder; the mask token does where the encoder sees it."""
    prefixes = ("decoder_", *EXTRA_LAYERS)
    return (*prefixes, "mask_token") if mask_tokens == "decoder" else prefixes


class MaskedAutoencoder(ViTEncoder):
    """Encodes the visible patches of an image and predicts the hidden ones.

    The names of all tensors are the official MAE code's, so its checkpoints load.

    Args:
        image_size: (H, W), multiples of the patch size.
        patch_size: p, in pixels.
        width, depth, heads: of the encoder; `mlp_ratio` 4.
        decoder_width, decoder_depth, decoder_heads: of the decoder.
        head: what the model predicts per patch; see `losses.heads`.
        class_tokens: K, of which the paper has one; all are as the one is, with the same position.
        mask_tokens: "decoder" (as in the paper: the encoder sees visible patches only) or "encoder" (its ablation,
            table 1c: the encoder sees mask tokens too).
        refiner_width: channels of the convolutional network that corrects hidden patches where they meet (see
            `recon.model.layers.Refiner`); 0, as in the paper: none.
        mask_strategy, mask_ratio: how `forward` hides patches where it gets no mask or noise; or how it corrupts whole
            images, see `recon.model.corruption`.
        gradient_checkpointing: blocks keep only their inputs and run again for the gradients (Chen et al. 2016, arXiv
            1604.06174): the same gradients to the bit for about a third more work, and far less memory.
        mean, std: per channel; images are standardised by them.
    """

    decoder_pos_embed: Tensor

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
        class_tokens: int = 1,
        mask_tokens: str = "decoder",
        refiner_width: int = 0,
        mask_strategy: str = "random",
        mask_ratio: float = 0.75,
        gradient_checkpointing: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        super().__init__(image_size, patch_size, width, depth, heads, class_tokens, gradient_checkpointing, mean, std)
        self.head = head or PixelHead()
        self.mask_tokens, self.refiner_width = mask_tokens, refiner_width
        self.mask_strategy, self.mask_ratio = strategy(mask_strategy), mask_ratio
        self.corruption = corruption_of(mask_strategy, mask_ratio, patch_size, self.mean, self.std)
        self.frozen: tuple[str, ...] = ()  # of "encoder" and "decoder": runs without gradients
        self.decoder_embed = nn.Linear(width, decoder_width)
        mask_token = torch.zeros(1, 1, decoder_width if mask_tokens == "decoder" else width)
        self.mask_token = nn.Parameter(mask_token, requires_grad=self.corruption is None)  # or nobody reads it
        self.register_buffer("decoder_pos_embed", sincos_positions(decoder_width, self.grid))
        self.decoder_blocks = transformer_blocks(decoder_depth, decoder_width, decoder_heads)
        self.decoder_norm = LayerNorm(decoder_width)
        self.decoder_pred = nn.Linear(decoder_width, self.head.decoder_width(3 * patch_size**2))
        self.register_load_state_dict_pre_hook(_keep_own_positions)
        self._initialise()
        self._add_extra_layers()

    def forward(
        self, images: Tensor, mask: Tensor | None = None, noise: Tensor | None = None, decoded: float | None = None
    ) -> Reconstruction:
        """Hides patches of (B, 3, H, W) in [0, 1] and predicts them.

        Args:
            mask: (B, N) bool, True = hidden, the same number in every row (or a ValueError).
            noise: (B, N); the `int(N * (1 - ratio))` lowest of each row stay visible, ties by position.
                With neither, the model's own strategy draws from torch's CPU generator.
            decoded: None: every patch is predicted, visible ones too. 1: the hidden ones only. Less: that share of
                them, those with the lowest noise; the others get no mask token, as in CrossMAE (Fu et al. 2024, arXiv
                2401.14391, section 3.3; its mask tokens do not see each other, these do). A ValueError without noise,
                or with layers that read whole images.

        A model that corrupts whole images predicts every patch of them, hides all, and takes noise alone.
        """
        if noise is None and mask is None:
            noise = torch.stack([self.mask_strategy(self.grid, self.mask_ratio, None) for _ in images])
        if self.corruption is not None:
            if mask is not None or noise is None or (decoded or 1) < 1:
                raise ValueError("this model corrupts whole images, by noise; give it noise, no mask and no decoded")
            return self._restored(images, noise.to(images.device))
        if mask is None:
            assert noise is not None
            visible = visible_count(self.patches, self.mask_ratio)
            mask = mask_from_noise(noise.to(images.device), visible)
        else:
            visible = count_visible(mask)
        if decoded is not None and decoded < 1:
            if self.refiner is not None or isinstance(self.distribution, FlowLayers):
                reads = "a flow" if self.refiner is None else "the refiner"
                raise ValueError(f"decoded={decoded} leaves holes in the image, and {reads} reads all of it")
            order = decoding_order(mask, visible, decoded, noise)
        else:
            order = decoding_order(mask, visible)
        flow_point = None
        # Not for pictures drawn during training: they must not advance the generator.
        if isinstance(self.distribution, FlowLayers) and self.training and torch.is_grad_enabled():
            flow_point = time_and_noise(images)
        prediction = self.predict(images, mask, order, visible, decoded is None, flow_point)
        where = None if decoded is None else order[:, visible:]
        return self._reconstruction(prediction, images, mask, indices=where)

    def _restored(self, images: Tensor, noise: Tensor) -> Reconstruction:
        """`forward` of a model that corrupts whole images."""
        assert self.corruption is not None
        corrupted, mask = self.corruption(images, noise), torch.ones_like(noise, dtype=torch.bool)
        prediction = self.predict(corrupted, mask, decoding_order(mask, 0), 0, everywhere=True)
        if type(self.head) is PixelHead:
            prediction = self.corruption.complete(prediction, corrupted, noise)
        r = self._reconstruction(prediction, images, mask)
        r.corrupted = corrupted
        return r

    @torch.no_grad()
    def render(self, images: Tensor, mask: Tensor, rendering: str, draw: int = 0) -> Reconstruction:
        """The mean, the mode or a sample of a predicted distribution, as pixels of every patch.

        Args:
            images, mask: as of `forward`.
            rendering: "mean", "mode" or "sample"; ValueError if it is not among the head's `renderings`.
            draw: the number of the sample; a sample depends on it, the mask and the visible pixels only.
        """
        visible = count_visible(mask)
        features = self._features(images, mask, decoding_order(mask, visible), visible, everywhere=True)
        r = self._reconstruction(self._with_extra_outputs(self.decoder_pred(features), features), images, mask)
        pixels = rendered_pixels(self.distribution, r, features, rendering, draw)
        return Reconstruction(pixels, images, mask, mean=self.mean, std=self.std)

    def predict(
        self,
        images: Tensor,
        mask: Tensor,
        order: Tensor,
        visible: int,
        everywhere: bool,
        flow_point: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The prediction alone: `everywhere` (B, N, W), every patch in its place; otherwise (B, n - visible, W).

        Args:
            order: (B, n), the patches that the decoder sees: the `visible` ones, then those to be predicted.
            flow_point: the times (B,) and the noise (B, 3, H, W) at which a flow is trained.
        """
        features = self._features(images, mask, order, visible, everywhere or flow_point is not None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "decoder" not in self.frozen):
            prediction = self.decoder_pred(features)
        if self.refiner is not None:
            return self.refiner(prediction, self.standardise(images), mask, order[:, visible:])
        if flow_point is None or self.distribution is None:
            return self._with_extra_outputs(prediction, features)
        prediction = self.distribution(prediction, features, self.standardise(images), mask, *flow_point)
        return prediction if everywhere else gather_tokens(prediction, order[:, visible:])

    def train_only(self, part: str) -> None:
        """Freezes all but the "decoder" (with all layers after it), the "refiner", or the "head" (the layers of a
        predicted distribution)."""
        self.frozen = ("encoder",) if part == "decoder" else ("encoder", "decoder")
        alone = {"refiner": ("refiner.",), "head": ("distribution.",)}
        trained = alone.get(part) or decoder_prefixes(self.mask_tokens)
        for name, parameter in self.named_parameters():
            idle = name == "mask_token" and self.corruption is not None
            parameter.requires_grad_(name.startswith(trained) and not idle)

    def untrained(self, seed: int) -> "MaskedAutoencoder":
        """A copy with newly drawn weights, as before any training, on the model's own device."""
        copy = deepcopy(self)
        copy.statistics = copy.refiner = copy.distribution = copy.target = None  # not to be drawn twice
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for module in copy.modules():
                if reset := getattr(module, "reset_parameters", None):
                    reset()
            copy._initialise()
            copy._add_extra_layers()
        for layers, copied in ((self.distribution, copy.distribution), (self.target, copy.target)):
            if layers is not None and copied is not None:
                copied.load_state_dict(dict(layers.named_buffers()), strict=False)
        return copy.to(self.mean)

    def _add_extra_layers(self) -> None:
        """Made last, so that a seed gives the same encoder and decoder under every head."""
        width, head = self.decoder_pred.in_features, self.head
        self.statistics = self.distribution = None
        self.target = target_of(head, self.patch_size)
        if head.statistics:
            self.statistics = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, head.statistics))
            initialise_linear(self.statistics)
        self.refiner = Refiner(self.refiner_width, self.image_size) if self.refiner_width else None
        if isinstance(head, MixtureHead):
            self.distribution = MixtureLayers(head, width, self.patch_size)
        elif isinstance(head, FlowHead):
            self.distribution = FlowLayers(head, width, self.patch_size, self.image_size, self.std)

    def _encode_masked(self, images: Tensor, mask: Tensor, visible: Tensor) -> Tensor:
        """The encoder's tokens of the visible patches; with mask_tokens=encoder of all, in the images' order."""
        if self.corruption is not None:
            return self.encode(images)
        if self.mask_tokens == "encoder":
            tokens = self.patch_embed(self.standardise(images))
            tokens = torch.where(mask.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
            return self.encode_tokens(tokens + self.pos_embed[:, 1:])
        return self.encode_tokens(self.embed_at(images, visible))

    def _decode(self, tokens: Tensor, order: Tensor) -> Tensor:
        """The decoder's tokens (B, K + n, D) of the class tokens and the patches in `order` (B, n)."""
        x, k = self.decoder_embed(tokens), self.class_tokens
        if self.mask_tokens == "decoder" and self.corruption is None:
            hidden = k + order.shape[1] - x.shape[1]
            x = torch.cat([x, self.mask_token.to(x.dtype).expand(len(x), hidden, -1)], dim=1)
        else:
            x = torch.cat([x[:, :k], gather_tokens(x[:, k:], order)], dim=1)
        # Tokens come in any order, each with the position of its own patch: attention does not see the order.
        positions = self.decoder_pos_embed[0]
        x = x + torch.cat([positions[:1].expand(len(x), k, -1), positions[1:][order]], dim=1)
        return self.run_blocks(self.decoder_blocks, x)

    def _features(self, images: Tensor, mask: Tensor, order: Tensor, visible: int, everywhere: bool) -> Tensor:
        """The input of the decoder's last layer: `everywhere` for all patches in their places, else for those after the
        visible ones in `order`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and "encoder" not in self.frozen):
            tokens = self._encode_masked(images, mask, order[:, :visible])
        with torch.set_grad_enabled(torch.is_grad_enabled() and "decoder" not in self.frozen):
            x = self._decode(tokens, order)
            x = self.decoder_norm(x[:, self.class_tokens + (0 if everywhere else visible) :])
            return gather_tokens(x, order.argsort(dim=1)) if everywhere else x

    def _with_extra_outputs(self, prediction: Tensor, features: Tensor) -> Tensor:
        """The prediction with the outputs of the extra layers that work on each patch by itself."""
        if isinstance(self.distribution, MixtureLayers):
            return self.distribution(prediction, features)
        if self.statistics is None:
            return prediction
        # Detached: the loss of the statistics sends no gradient into the model.
        return torch.cat([prediction, self.statistics(features.detach())], dim=-1)

    def _reconstruction(
        self, prediction: Tensor, images: Tensor, mask: Tensor, indices: Tensor | None = None
    ) -> Reconstruction:
        fitted = self.distribution or self.target
        head = self.head if fitted is None else fitted.head
        return Reconstruction(prediction, images, mask, head, self.mean, self.std, indices=indices)

    def _initialise(self) -> None:
        """As the official code: Xavier-uniform matrices (patch embedding too), zero biases of linear layers, N(0, 0.02)
        tokens."""
        initialise_linear(self)
        embedding = self.patch_embed.proj.weight
        nn.init.xavier_uniform_(embedding.data.view(embedding.shape[0], -1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)


def _keep_own_positions(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Positions are a formula, not weights, so a checkpoint of another image size can be loaded."""
    for name in ("pos_embed", "decoder_pos_embed"):
        if prefix + name in state:
            state[prefix + name] = getattr(module, name)
