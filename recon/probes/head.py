"""What stands between the encoder's tokens and the classes."""

from typing import ClassVar

from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from recon.model.layers import LayerNorm

HEAD_WIDTH = 64  # of the attentive head's attention heads, as of every ViT from tiny to large


class Head(nn.Module):
    """Tokens (B, 1 + N, D), the class token first, to logits (B, C).

    `own_norm`: the head has a norm behind its pooling, and reads the last block's tokens without the encoder's norm.
    """

    own_norm: ClassVar[bool] = False

    def __init__(self, width: int, classes: int, std: float):
        super().__init__()
        self.linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)


class BatchNormLinear(Head):
    """The class token, standardised over the batch without scale and shift, then linear.

    Still a linear classifier: in evaluation the norm is a fixed affine map. It sets the scale of the features, so that
    one learning rate serves all objectives. He et al. 2021, A.1.
    """

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=0.01)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(tokens[:, 0]))


class PooledLinear(Head):
    """The mean of the patch tokens, layer norm, then linear: how the official code fine-tunes.

    The weights begin so near 0 (2e-5) that the first predictions are uniform.
    """

    own_norm = True

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=2e-5)
        self.norm = LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(tokens[:, 1:].mean(1)))


class AttentiveLinear(Head):
    """A learnt query attends to all tokens (timm's `AttentionPoolLatent`: attention, MLP with residual), then linear.

    The order of the tokens means nothing to it. Bardes et al. 2024 (V-JEPA, arXiv 2404.08471), section 4.
    """

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=0.02)
        self.pool = AttentionPoolLatent(width, num_heads=max(1, width // HEAD_WIDTH), norm_layer=LayerNorm)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.pool(tokens))
