"""Classifiers that are trained on an encoder's tokens: a head, and as much of the encoder as is trained with it."""

import math
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, ClassVar

import torch
from lightning_fabric import Fabric
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from losses import InvalidSetting
from recon.model import MaskedAutoencoder
from recon.model.layers import LayerNorm, set_drop_path

HEAD_WIDTH = 64  # width of an attention head of the attentive probe, as in every ViT from tiny to large
QUERIES = 32  # of the efficient probe, as in its paper's main results


class Head(nn.Module):
    """Maps tokens (B, K + N, D), the `class_tokens` first, to logits (B, C).

    `own_norm`: the head normalises after pooling, so it reads the last block's tokens without the encoder's norm.
    """

    own_norm: ClassVar[bool] = False
    class_tokens = 1  # K, of the encoder

    def __init__(self, width: int, classes: int, std: float):
        super().__init__()
        self.linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)


class BatchNormLinear(Head):
    """The class token under a batch norm without scale and shift, then linear (He et al. 2021, A.1).

    Of several class tokens it reads the mean, as `encoder_features` does. Still a linear classifier: in evaluation
    the norm is a fixed affine map. It fixes the scale of the features, so that one learning rate fits all objectives.
    """

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=0.01)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(tokens[:, : self.class_tokens].mean(1)))


class PooledLinear(Head):
    """The mean of the patch tokens, layer norm, then linear, as the official code fine-tunes.

    Weights are initialised with std 2e-5, so the first predictions are uniform.
    """

    own_norm = True

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=2e-5)
        self.norm = LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(tokens[:, self.class_tokens :].mean(1)))


class AttentiveLinear(Head):
    """A learnt query attends to all tokens (timm's `AttentionPoolLatent`: attention, MLP with residual), then linear.

    It ignores the order of the tokens. Bardes et al. 2024 (V-JEPA, arXiv 2404.08471), section 4.
    """

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=0.02)
        self.pool = AttentionPoolLatent(width, num_heads=max(1, width // HEAD_WIDTH), norm_layer=LayerNorm)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.pool(tokens))


class EfficientLinear(Head):
    """M learnt queries attend to the patch tokens themselves, then batch norm and linear: efficient probing.

    Psomas et al. 2025 (arXiv 2506.10178). Without a projection of queries or keys, query j weighs the tokens x_i (D,)
    by softmax_i(q_j · x_i / sqrt(D)), and its weights pool the j-th part, D / M channels, of the values V x_i. The
    parts are joined to D channels. M D + D² parameters before the classifier; `attentive` has about 12 D².

    Args:
        queries: M, a divisor of D.
    """

    def __init__(self, width: int, classes: int, queries: int = QUERIES):
        super().__init__(width, classes, std=0.01)
        # The queries as a matrix of products with tokens: weight (M, D).
        self.queries = nn.Linear(width, queries, bias=False)
        self.values = nn.Linear(width, width, bias=False)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        nn.init.normal_(self.queries.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(self.pool(tokens[:, self.class_tokens :])))

    def pool(self, x: Tensor) -> Tensor:
        """Patch tokens (B, N, D) -> (B, D)."""
        attention = (self.queries(x) * x.shape[-1] ** -0.5).softmax(dim=1)
        parts = self.values(x).unflatten(-1, (attention.shape[-1], -1))
        return torch.einsum("bnm,bnmc->bmc", attention, parts).flatten(1)


class Classifier(nn.Module):
    """A head on a copy of an encoder, whose last `blocks` blocks are trained.

    Frozen parts stay in evaluation mode and build no graph. A head with a norm of its own replaces the encoder's norm,
    which is otherwise trained only with the whole encoder.

    Args:
        blocks: in steps of a half: half a block is its MLP with its norm. 0: the encoder is frozen. As many as the
            encoder has, or infinity: all of it, with patch embedding and class token.
        drop_path: probability that the last block is skipped (stochastic depth, Huang et al. 2016), rising linearly
            from 0 at the first block. Frozen blocks are never skipped.

    Raises:
        InvalidSetting: more blocks than the encoder has.
    """

    def __init__(self, encoder: MaskedAutoencoder, head: Head, blocks: float, drop_path: float, fabric: Fabric):
        super().__init__()
        self.fabric, self.head = fabric, head
        head.class_tokens = encoder.class_tokens
        self.encoder = deepcopy(encoder).requires_grad_(False)
        if head.own_norm:
            self.encoder.register_module("norm", nn.Identity())
        set_drop_path(self.encoder.blocks, drop_path)
        whole = blocks in (len(encoder.blocks), math.inf)
        copied = self.encoder  # its positions are fixed
        parts = [copied.patch_embed, *copied.blocks, copied.norm] if whole else last_blocks(copied, blocks)
        self.trained = [head, *parts]
        for part in self.trained:
            part.requires_grad_(True)
        self.encoder.cls_token.requires_grad_(whole)
        self.to(fabric.device)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> logits (B, C), float32."""
        with self.fabric.autocast():
            # Layers before the first trained parameter build no graph: frozen blocks cost their forward pass alone.
            return self.head(self.encoder.encode(images).float()).float()

    def train(self, mode: bool = True) -> "Classifier":
        """Switches the trained parts alone to training mode."""
        super().train(False)
        for part in self.trained:
            part.train(mode)
        return self

    @torch.no_grad()
    def predict(self, batches: Iterable[Tensor]) -> Tensor:
        """Batches of images (B, 3, H, W), uint8 or float in [0, 1] -> classes of all images, (n,) int64 on the CPU."""
        self.eval()
        classes = []  # copied to the CPU after the last batch, so that the device never waits
        for images in batches:
            images = images.to(self.fabric.device, non_blocking=True)
            images = images.float() / 255 if images.dtype == torch.uint8 else images
            classes.append(self(images).argmax(dim=1))
        return torch.cat(classes).cpu()


def last_blocks(encoder: MaskedAutoencoder, blocks: float) -> list[nn.Module]:
    """The last blocks, and for a half the MLP of the block before them with its norm and drop path."""
    depth, whole = len(encoder.blocks), int(blocks)
    if blocks > depth:
        raise InvalidSetting(f"the last {blocks:g} blocks cannot be trained: the encoder has {depth}")
    parts: list[nn.Module] = list(encoder.blocks[depth - whole :])
    if blocks > whole:
        block: Any = encoder.blocks[depth - whole - 1]
        parts += [block.norm2, block.mlp, block.drop_path2]
    return parts
