"""The term that predicts discrete tokens of each hidden patch, and its head, a categorical distribution."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.heads import PixelHead
from losses.options import TokensOptions, chosen
from losses.reconstruction import Reconstruction, patchify
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
        """The distribution's mean, (B, N, P); ValueError if the tokenizer draws neighbouring patches together, which
        `pixels_of` does."""
        return self.for_patches(values).pixels(self._mean(prediction, values))

    def pixels_of(self, r: Reconstruction) -> Tensor:
        """The distribution's mean, (B, N, P); of `vq` the picture of the mean codes."""
        return self._drawn(self._mean(r.prediction, r.values), r)

    def mode_pixels(self, r: Reconstruction) -> Tensor:
        """The most likely token in each place, (B, N, P)."""
        return self._drawn(self._entries(self.logits(r.prediction).argmax(-1), r), r)

    def sample_pixels(self, r: Reconstruction, normal: Tensor) -> Tensor:
        """A sample, (B, N, P), from standard normal numbers (B, N, P), of which each token takes one."""
        cumulative = self.logits(r.prediction).softmax(-1).cumsum(-1)
        uniform = torch.special.ndtr(normal[..., : cumulative.shape[-2]].to(cumulative)).unsqueeze(-1)
        tokens = (cumulative < uniform).sum(-1).clamp(max=self.codes - 1)
        return self._drawn(self._entries(tokens, r), r)

    def _mean(self, prediction: Tensor, values: int) -> Tensor:
        """The expected entries of the codebook, (B, N, T, D)."""
        probabilities = self.logits(prediction).softmax(-1)
        return probabilities @ self.for_patches(values).codebook.to(probabilities)

    def _entries(self, tokens: Tensor, r: Reconstruction) -> Tensor:
        """(B, N, T) -> (B, N, T, D)."""
        return self.for_patches(r.values).codebook.to(widened(r.prediction))[tokens]

    def _drawn(self, entries: Tensor, r: Reconstruction) -> Tensor:
        """(B, n, T, D) of the predicted patches -> (B, n, P). Where a patch is drawn with its neighbours, visible ones
        have the entries of the truth."""
        tokenizer = self.for_patches(r.values)
        if not tokenizer.draws_together:
            return tokenizer.pixels(entries)
        if r.over == "hidden":
            true = self._entries(tokenizer.tokens(patchify(r.standardised_image, r.patch_size)), r)
            predicted = entries
            if r.indices is not None:  # 0 where a hidden patch was not predicted, as beyond the image's border
                where = r.indices[..., None, None].expand_as(entries)
                predicted = torch.zeros_like(true).scatter(1, where, entries)
            entries = torch.where(r.mask[..., None, None], predicted, true)
        return r.of_predicted(tokenizer.pixels(entries, r.grid))


class Tokens(Term):
    """Cross-entropy of the discrete tokens of each hidden patch: mean over its tokens, in nats.

    The tokens of BEiT (Bao et al. 2022, arXiv 2106.08254) and of the MAE paper's table 1d ("dVAE token") are those of a
    trained network; here of a codebook of patches by k-means (the default), of a small network
    (`losses.tokenizers.VQTokenizer`), or of colours, as iGPT's 512 clusters (Chen et al. 2020): there of the pixels of
    images of 32 to 64 pixels, here of 4 x 4 squares in each patch. It is ln(codes) for equal logits.
    """

    Options = TokensOptions

    @classmethod
    def head_of(cls, options: TokensOptions) -> TokensHead:
        chosen("losses.tokens.tokenizer", options.tokenizer, [*TOKENIZERS, "a file of recon.tokenizer"])
        return TokensHead(options.tokenizer, options.codes)

    def value(self, r: Reconstruction) -> Tensor:
        head = r.head
        assert isinstance(head, TokensHead)  # with the model's tokenizer
        logits, tokens = head.logits(r.prediction), head.for_patches(r.values).tokens(r.true_pixels)
        return r.judged_mean(F.cross_entropy(logits.flatten(0, 2), tokens.flatten(), reduction="none").view_as(tokens))


@cache
def unfitted(kind: str, codes: int, patch_size: int) -> Tokenizer:
    """A tokenizer of fixed numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TOKENIZERS[kind](codes, patch_size)
