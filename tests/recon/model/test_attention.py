"""Attention is the same function whichever way it is computed, and the way does not depend on what ran before."""

import pytest
import torch
from timm.layers import set_fused_attn
from torch.nn import functional as F

from recon.model import create_model
from recon.training.device import make_fabric


@pytest.fixture(params=[True, False])
def switched(request):
    """timm's global switch, which it reads when a model is made."""
    set_fused_attn(request.param)
    yield
    set_fused_attn(True)


def tokens(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 17, 192, generator=torch.Generator().manual_seed(0)).to(dtype)


def attention() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("nano", image_size=32).blocks[0].attn


def test_on_a_cpu_it_is_written_out_whenever_the_model_was_made(switched):
    before = attention()
    make_fabric("cpu", "fp32")
    with torch.profiler.profile() as seen:
        found = before(tokens()), attention()(tokens())
    assert torch.equal(*found)
    assert not any("scaled_dot_product" in event.key for event in seen.key_averages())


def test_it_is_torch_s_attention():
    ours = attention().double()
    q, k, v = ours.qkv(tokens(torch.double)).reshape(2, 17, 3, 3, 64).permute(2, 0, 3, 1, 4)
    theirs = ours.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 17, 192))
    torch.testing.assert_close(ours(tokens(torch.double)), theirs, rtol=1e-12, atol=1e-14)


def test_elsewhere_torch_s_kernels_are_used():
    assert attention().to("meta").fused_attn
