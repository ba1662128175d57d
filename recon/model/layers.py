"""What encoder and decoder are made of: timm's blocks, their attention by the way that is faster where they are."""

from functools import partial

from timm.layers import Attention as TimmAttention
from timm.models.vision_transformer import Block
from torch import nn

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Attention(TimmAttention):
    """On a CPU two products and a softmax, written out in autocast's precision; elsewhere torch's fused kernels.

    On a CPU the flash kernel's backward takes half of a ViT's step, and torch's other way computes in float32 what
    autocast has in bfloat16.
    """

    @property
    def fused_attn(self) -> bool:
        return self.qkv.weight.device.type != "cpu"

    @fused_attn.setter
    def fused_attn(self, switched: bool) -> None:
        """timm's global switch is not heard: numbers would depend on what ran before a model was made."""


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform matrices and zero biases, as the official code."""
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.xavier_uniform_(each.weight)
            nn.init.zeros_(each.bias)


def transformer_blocks(depth: int, width: int, heads: int) -> nn.ModuleList:
    """timm's, by names and shapes."""
    kind = partial(Block, mlp_ratio=4, qkv_bias=True, norm_layer=LayerNorm, attn_layer=Attention)
    return nn.ModuleList(kind(width, heads) for _ in range(depth))


def statistics_head(width: int, outputs: int) -> nn.Sequential:
    """(..., width) -> (..., outputs), through one hidden layer."""
    head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs))
    initialise_linear(head)
    return head
