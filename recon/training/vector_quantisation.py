"""Trains the small vector-quantised autoencoder whose codes are tokens."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.reconstruction import patchify
from losses.tokenizers import VQTokenizer

BATCH = 64  # images
COMMITMENT = 0.25  # weight of the distance of the encoder's output from its code
DECAY = 0.99  # of the moving averages that are the codebook
DEAD = 0.1  # a code whose average has fallen below so many patches of a batch begins anew at one of them
PEAK = 1e-3  # learning rate


def train_vq(tokenizer: VQTokenizer, images: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
    """Trains a tokenizer in place; yields each step's squared error, which nothing waits for.

    Codes are moving averages of the encoder's outputs that are nearest to them, gradients pass straight through them,
    and dead ones are restarted (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1; Dhariwal et al. 2020, arXiv
    2005.00341).

    Args:
        images: standardised, (n, 3, H, W), on the tokenizer's device.
        steps: of AdamW, with a learning rate that falls as a half cosine.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [buffer for name, buffer in tokenizer.named_buffers() if name != "codebook"]
    optimizer = torch.optim.AdamW(weights, lr=PEAK, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    averages = _Averages(tokenizer)
    for step in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator).to(images.device)
        patches = patchify(images[chosen], tokenizer.patch_size)
        for weight in weights:
            weight.requires_grad_(True)
        vectors = tokenizer.vectors(patches)
        found = vectors.detach().flatten(0, 2)
        if step == 0:
            averages.restart(found, torch.ones_like(averages.counts, dtype=torch.bool), generator)
        tokens = tokenizer.tokens(patches)
        codes = tokenizer.codebook[tokens]
        drawn = tokenizer.pixels(vectors + (codes - vectors).detach(), _grid(images, tokenizer.patch_size))
        error = F.mse_loss(drawn, patches)
        (error + COMMITMENT * F.mse_loss(vectors, codes)).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        for weight in weights:
            weight.requires_grad_(False)
        averages.update(found, tokens.flatten(), generator)
        yield error.detach()


class _Averages:
    """Moving averages of how many outputs of the encoder are nearest to each code, and of their sums."""

    def __init__(self, tokenizer: VQTokenizer):
        self.codebook = tokenizer.codebook
        self.counts = torch.ones(len(self.codebook), device=self.codebook.device)
        self.sums = self.codebook.clone()

    def update(self, vectors: Tensor, tokens: Tensor, generator: torch.Generator) -> None:
        """Takes the `vectors` (n, D) of a step, whose nearest codes are `tokens` (n,)."""
        counts, sums = torch.zeros_like(self.counts), torch.zeros_like(self.sums)
        counts.index_add_(0, tokens, torch.ones_like(tokens, dtype=counts.dtype))
        sums.index_add_(0, tokens, vectors)
        self.counts.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        self.codebook.copy_(self.sums / self.counts.clamp_min(1e-5).unsqueeze(-1))
        self.restart(vectors, self.counts < DEAD, generator)

    def restart(self, vectors: Tensor, dead: Tensor, generator: torch.Generator) -> None:
        """Puts the `dead` codes, (K,) bool, at randomly chosen vectors."""
        drawn = torch.randint(len(vectors), (len(self.counts),), generator=generator).to(vectors.device)
        anew = vectors[drawn]
        self.counts.masked_fill_(dead, 1.0)
        self.sums.copy_(torch.where(dead.unsqueeze(-1), anew, self.sums))
        self.codebook.copy_(torch.where(dead.unsqueeze(-1), anew, self.codebook))


def _grid(images: Tensor, patch_size: int) -> tuple[int, int]:
    return images.shape[2] // patch_size, images.shape[3] // patch_size
