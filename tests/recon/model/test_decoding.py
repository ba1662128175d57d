"""What the decoder is asked for: every patch, hidden ones alone, or a part of them."""

import pytest
import torch

from losses.heads import NormalisedPixelHead
from tests.recon.model.conftest import PATCHES, images, noise, small

VISIBLE = int(PATCHES * 0.4)

both_places = pytest.mark.parametrize("mask_tokens", ["decoder", "encoder"])


def rows(prediction, where):
    return prediction.gather(1, where.unsqueeze(-1).expand(-1, -1, prediction.shape[-1]))


@both_places
def test_hidden_patches_alone_are_predicted_as_they_are_among_all(mask_tokens):
    model = small(mask_tokens=mask_tokens, head=NormalisedPixelHead())
    full, hidden = (model(images(), noise=noise(), decoded=decoded) for decoded in (None, 1.0))
    assert full.indices is None and torch.equal(full.mask, hidden.mask)
    assert torch.equal(torch.zeros_like(full.mask).scatter(1, hidden.indices, True), full.mask)
    assert torch.allclose(rows(full.prediction, hidden.indices), hidden.prediction, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5])
def test_a_share_is_of_the_hidden_patches_with_the_lowest_noise(share):
    r = small()(images(), noise=noise(), decoded=share)
    number = max(1, round(share * (PATCHES - VISIBLE)))
    lowest = noise().argsort(1)[:, VISIBLE : VISIBLE + number].sort(1).values
    assert torch.equal(r.indices.sort(1).values, lowest)
    assert r.prediction.shape[:2] == lowest.shape


@both_places
def test_patches_that_are_not_decoded_are_not_there_for_the_decoder(mask_tokens):
    """Each image alone: the decoder's input is the visible tokens and one token per chosen patch, each in its place."""
    model = small(mask_tokens=mask_tokens)
    r = model(images(), noise=noise(), decoded=0.5)
    for image, hidden, where, prediction in zip(images(), r.mask, r.indices, r.prediction, strict=True):
        tokens = model.patch_embed((image[None] - model.mean) / model.std)[0]
        visible = (~hidden).nonzero().flatten()
        seen = visible
        if mask_tokens == "encoder":
            tokens[hidden] = model.mask_token[0, 0]
            seen = torch.arange(PATCHES)
        x = (
            torch.cat([model.cls_token[0], tokens[seen]])
            + model.pos_embed[0][torch.cat([torch.zeros(1).long(), 1 + seen])]
        )
        x = x[None]
        for block in model.blocks:
            x = block(x)
        x = model.decoder_embed(model.norm(x))[0]
        chosen = x[1 + where] if mask_tokens == "encoder" else model.mask_token[0].repeat(len(where), 1)
        old = x[1 + visible] if mask_tokens == "encoder" else x[1:]
        places = torch.cat([torch.zeros(1).long(), 1 + visible, 1 + where])
        x = (torch.cat([x[:1], old, chosen]) + model.decoder_pos_embed[0][places])[None]
        for block in model.decoder_blocks:
            x = block(x)
        expected = model.decoder_pred(model.decoder_norm(x))[0, 1 + len(visible) :]
        assert torch.allclose(prediction, expected, rtol=0, atol=1e-12)


def test_every_hidden_patch_has_its_turn():
    """Over many masks each patch is among the chosen as often as any other: a binomial count, 5 standard deviations."""
    model, many = small(dtype=torch.float32), 3000
    draws = torch.rand(many, PATCHES, generator=torch.Generator().manual_seed(0))
    truth = images(1, dtype=torch.float32).expand(many, -1, -1, -1)
    with torch.no_grad():
        where = model(truth, noise=draws, decoded=1 / 3).indices
    counts = torch.bincount(where.flatten(), minlength=PATCHES)
    share = where.shape[1] / PATCHES
    assert (counts - many * share).abs().max() < 5 * (many * share * (1 - share)) ** 0.5


def test_blocks_that_run_twice_give_the_same_gradients_and_keep_less():
    """To the bit; kept are bytes that autograd holds between forward and backward."""
    gradients, kept = [], []
    for again in (False, True):
        model, storages = small(gradient_checkpointing=again, dtype=torch.float32), {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            prediction = model(images(dtype=torch.float32), noise=noise()).prediction
        prediction.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
        kept.append(sum(storages.values()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    weights = sum(p.numel() * 4 for p in small(dtype=torch.float32).parameters())
    assert kept[1] - weights < 0.5 * (kept[0] - weights)


def test_a_share_without_noise_is_refused():
    hidden = small()(images(), noise=noise()).mask
    with pytest.raises(ValueError, match=r"decoded=0.5 .* give noise"):
        small()(images(), mask=hidden, decoded=0.5)
