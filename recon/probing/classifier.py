"""The classifiers that probes train on an encoder's tokens, and LARS, the optimiser of linear probes."""

from collections.abc import Iterable
from typing import Any, ClassVar

import timm.optim
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from recon.model.layers import LayerNorm

HEAD_WIDTH = 64  # width of an attention head of the attentive probe, as in every ViT from tiny to large


class Head(nn.Module):
    """Maps tokens (B, 1 + N, D), the class token first, to logits (B, C).

    `own_norm`: the head normalises after pooling, so it reads the last block's tokens without the encoder's norm.
    """

    own_norm: ClassVar[bool] = False

    def __init__(self, width: int, classes: int, std: float):
        super().__init__()
        self.linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)


class BatchNormLinear(Head):
    """The class token under a batch norm without scale and shift, then linear (He et al. 2021, A.1).

    Still a linear classifier: in evaluation the norm is a fixed affine map. It fixes the scale of the features, so
    that one learning rate fits all objectives.
    """

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=0.01)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(tokens[:, 0]))


class PooledLinear(Head):
    """The mean of the patch tokens, layer norm, then linear, as the official code fine-tunes.

    Weights are initialised with std 2e-5, so the first predictions are uniform.
    """

    own_norm = True

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=2e-5)
        self.norm = LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(tokens[:, 1:].mean(1)))


class AttentiveLinear(Head):
    """A learnt query attends to all tokens (timm's `AttentionPoolLatent`: attention, MLP with residual), then linear.

    It ignores the order of the tokens. Bardes et al. 2024 (V-JEPA, arXiv 2404.08471), section 4.
    """

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=0.02)
        self.pool = AttentionPoolLatent(width, num_heads=max(1, width // HEAD_WIDTH), norm_layer=LayerNorm)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.pool(tokens))


class LARS(timm.optim.Lars):
    """timm's LARS with the settings of MoCo v3's and MAE's code: vectors are neither adapted nor decayed.

    With trust ratio t = 0.001 ||w|| / (||g|| + d ||w||) and decay d:  v <- 0.9 v + t (g + d w),  w <- w - lr v.
    For parameters of one dimension (biases) t = 1 and nothing decays; where ||w|| or ||g|| is 0, t = 1. This is the
    formula of You et al. 2017 (arXiv 1708.03888) but for the place of lr, which the paper multiplies by before the
    momentum. The official code divides by ||g + d w||, which is the same in MAE's recipe: d = 0.

    timm's own defaults differ: without decay nothing is adapted, with it vectors are too, and momentum is 0.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.0, momentum: float = 0.9, **settings: float):
        super().__init__(params, lr=lr, momentum=momentum, eps=0.0, **settings)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds matrices and vectors as groups of their own."""
        parameters = list(param_group["params"])
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        if matrices:
            super().add_param_group(param_group | {"params": matrices, "always_adapt": True})
        if vectors:
            super().add_param_group(param_group | {"params": vectors, "always_adapt": False, "weight_decay": 0.0})
