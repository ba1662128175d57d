"""The term that predicts discrete tokens of each hidden patch, and its head, a categorical distribution."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.heads import PixelHead
from losses.options import TokensOptions, chosen
from losses.reconstruction import Reconstruction
from losses.term import Term, widened
from losses.tokenizers import TOKENIZERS, Tokenizer


@dataclass(frozen=True)
class TokensHead(PixelHead):
    """K logits for each of a patch's T tokens, token by token. Its pixels are the distribution's mean.

    Args:
        kind: of `TOKENIZERS`.
        codes: K.
        tokenizer: fitted, which the model has as buffers; None: one of fixed numbers.
    """

    kind: str = "kmeans"
    codes: int = 512
    tokenizer: Tokenizer | None = None

    name = decoder = "tokens"
    renderings = ("mean", "mode", "sample")

    def decoder_width(self, values: int) -> int:
        """T * K; InvalidSetting where the tokenizer cannot divide such a patch."""
        return self.for_patches(values).per_patch * self.codes

    def for_patches(self, values: int) -> Tokenizer:
        """The tokenizer of patches of P `values`."""
        return self.tokenizer or unfitted(self.kind, self.codes, round((values // 3) ** 0.5))

    def logits(self, prediction: Tensor) -> Tensor:
        """(B, N, W) -> (B, N, T, K), in float32 or wider."""
        return widened(prediction).unflatten(-1, (-1, self.codes))

    def pixels(self, prediction: Tensor, values: int) -> Tensor:
        """The distribution's mean, (B, N, P)."""
        tokenizer, probabilities = self.for_patches(values), self.logits(prediction).softmax(-1)
        return tokenizer.pixels(probabilities @ tokenizer.codebook.to(probabilities))

    def mode_pixels(self, prediction: Tensor, values: int) -> Tensor:
        """The most likely token in each place, (B, N, P)."""
        return self._of_tokens(self.logits(prediction).argmax(-1), prediction, values)

    def sample_pixels(self, prediction: Tensor, normal: Tensor) -> Tensor:
        """A sample, (B, N, P), from standard normal numbers (B, N, P), of which each token takes one."""
        cumulative = self.logits(prediction).softmax(-1).cumsum(-1)
        uniform = torch.special.ndtr(normal[..., : cumulative.shape[-2]].to(cumulative)).unsqueeze(-1)
        tokens = (cumulative < uniform).sum(-1).clamp(max=self.codes - 1)
        return self._of_tokens(tokens, prediction, normal.shape[-1])

    def _of_tokens(self, tokens: Tensor, prediction: Tensor, values: int) -> Tensor:
        """(B, N, T) -> (B, N, P)."""
        tokenizer = self.for_patches(values)
        return tokenizer.pixels(tokenizer.codebook.to(widened(prediction))[tokens])


class Tokens(Term):
    """Cross-entropy of the discrete tokens of each hidden patch: mean over its tokens, in nats.

    The tokens of BEiT (Bao et al. 2022, arXiv 2106.08254) and of the MAE paper's table 1d ("dVAE token") are those of a
    trained network; here of a codebook of patches by k-means (the default), or of colours, as iGPT's 512 clusters (Chen
    et al. 2020), which are of the pixels of images of 32 to 64 pixels there, and of 4 x 4 squares in each patch here.
    ln(codes) for equal logits.
    """

    Options = TokensOptions

    @classmethod
    def head_of(cls, options: TokensOptions) -> TokensHead:
        chosen("losses.tokens.tokenizer", options.tokenizer, TOKENIZERS)
        return TokensHead(options.tokenizer, options.codes)

    def value(self, r: Reconstruction) -> Tensor:
        head = r.head
        assert isinstance(head, TokensHead)  # with the model's tokenizer
        logits, tokens = head.logits(r.prediction), head.for_patches(r.values).tokens(r.true_pixels)
        return r.judged_mean(F.cross_entropy(logits.flatten(0, 2), tokens.flatten(), reduction="none").view_as(tokens))


@cache
def unfitted(kind: str, codes: int, patch_size: int) -> Tokenizer:
    """A tokenizer of fixed numbers."""
    return TOKENIZERS[kind](codes, patch_size)
