"""The small network whose codes are tokens: what it learns in a few steps, and that its codes stay in use."""

import pytest
import torch
from torch.nn import functional as F

from losses.reconstruction import patchify
from losses.tokenizers import VQTokenizer
from recon.training.vector_quantisation import DEAD, _Averages, train_vq
from tests.losses.scenes import photographs

STEPS = 80


def crops():
    """Windows of 32 pixels of four photographs, standardised."""
    windows = photographs((128, 128)).unfold(2, 32, 16).unfold(3, 32, 16).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    return (windows - windows.mean((0, 2, 3), keepdim=True)) / windows.std()


def trained(seed, steps=STEPS):
    torch.manual_seed(seed)
    tokenizer = VQTokenizer(32, 8)
    errors = [float(error) for error in train_vq(tokenizer, crops(), steps, seed)]
    return tokenizer, errors


@pytest.fixture(scope="module")
def learnt():
    return trained(0)


def test_it_draws_photographs_better_than_the_mean_colour_of_every_patch(learnt):
    tokenizer, errors = learnt
    images = crops()
    patches = patchify(images, 8)
    tokens = tokenizer.tokens(patches)
    error = float((tokenizer.pixels(tokenizer.codebook[tokens], (4, 4)) - patches).square().mean())
    assert error < 0.5 * float((patches - patches.mean((0, 1))).square().mean())
    assert len(tokens.unique()) > 16 and errors[-1] < 0.5 * errors[0]


def test_the_decoder_sees_neighbours_and_the_encoder_does_not(learnt):
    tokenizer, _ = learnt
    codes = tokenizer.codebook[tokenizer.tokens(patchify(crops()[:1], 8))]
    other = codes.clone()
    other[0, 0] = -other[0, 0]
    changed = (tokenizer.pixels(codes, (4, 4)) != tokenizer.pixels(other, (4, 4))).any(-1).view(4, 4)
    assert changed[0, 0] and changed[0, 1] and changed[1, 0]
    patches = patchify(crops()[:2], 8)
    assert torch.equal(tokenizer.tokens(patches)[0, 5], tokenizer.tokens(patches[0, 5]))


def test_it_is_the_same_for_a_seed_and_frozen_afterwards(learnt):
    one, other, third = (trained(seed, 3)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["codebook"], third["codebook"])
    tokenizer, _ = learnt
    assert not list(tokenizer.parameters()) and not any(buffer.requires_grad for buffer in tokenizer.buffers())


def test_the_codebook_tends_to_the_means_of_what_is_nearest_and_dead_codes_begin_anew():
    tokenizer = VQTokenizer(3, 8)
    averages, generator = _Averages(tokenizer), torch.Generator().manual_seed(0)
    vectors = F.layer_norm(torch.randn(40, tokenizer.CODE, generator=generator), (tokenizer.CODE,))
    tokens = (torch.arange(40) % 2).long()  # the third code is never used
    restarted = False
    for _ in range(600):
        averages.update(vectors, tokens, generator)
        restarted |= bool((tokenizer.codebook[2] == vectors).all(-1).any())
    for code in (0, 1):
        torch.testing.assert_close(tokenizer.codebook[code], vectors[tokens == code].mean(0), rtol=0, atol=0.02)
    assert restarted and float(averages.counts[2]) >= DEAD
