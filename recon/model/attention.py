"""timm's attention, by the way that is faster where its weights are."""

from timm.layers import Attention as TimmAttention


class Attention(TimmAttention):
    """On a CPU two products and a softmax, written out in autocast's precision; elsewhere torch's fused kernels.

    On a CPU the flash kernel's backward takes half of a ViT's step, and torch's other way computes in float32 what
    autocast has in bfloat16. Written out, the step is 1.2 times as fast as by the latter, 1.09 times where it is
    compiled (tiny/8 at 64 pixels, batch 64, one core).
    """

    @property
    def fused_attn(self) -> bool:
        return self.qkv.weight.device.type != "cpu"

    @fused_attn.setter
    def fused_attn(self, switched: bool) -> None:
        """timm's global switch is not heard: numbers would depend on what ran before a model was made."""
