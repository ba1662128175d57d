"""What the autoencoder sees and what it does not."""

import pytest
import torch
from torch import Tensor

from losses.heads import NormalisedPixelHead
from losses.reconstruction import expand_to_pixels
from recon.model import MaskedAutoencoder
from tests.recon.model.conftest import PATCHES, images, noise, small

both_places = pytest.mark.parametrize("mask_tokens", ["decoder", "encoder"])


def repainted(truth: Tensor, where: Tensor) -> Tensor:
    """Other pixels in the patches `where` (B, N)."""
    return torch.where(expand_to_pixels(where, (3, 5), 4), 1 - truth, truth)


def encoder_tokens(model: MaskedAutoencoder, *arguments, **named) -> Tensor:
    """What the last layer of the encoder puts out in a forward pass."""
    found = []
    handle = model.norm.register_forward_hook(lambda module, inputs, output: found.append(output))
    model(*arguments, **named)
    handle.remove()
    return found[0]


@both_places
def test_hidden_pixels_change_no_prediction(mask_tokens):
    model, truth = small(mask_tokens=mask_tokens), images()
    before = model(truth, noise=noise())
    after = model(repainted(truth, before.mask), mask=before.mask)
    assert torch.equal(before.prediction, after.prediction)


@both_places
def test_every_visible_patch_changes_every_prediction(mask_tokens):
    model, truth = small(mask_tokens=mask_tokens), images(1)
    before = model(truth, noise=noise(1))
    for patch in (~before.mask[0]).nonzero().flatten():
        one = torch.zeros_like(before.mask)
        one[0, patch] = True
        after = model(repainted(truth, one), mask=before.mask)
        assert ((after.prediction - before.prediction).abs().amax(-1) > 1e-9).all()


def test_the_encoder_sees_visible_patches_alone():
    model, truth = small(), images()
    assert encoder_tokens(model, truth, noise=noise()).shape == (3, 1 + int(PATCHES * 0.4), 48)
    assert model.mask_token.shape == (1, 1, 32)


def test_with_mask_tokens_the_encoder_sees_the_whole_sequence():
    model, truth = small(mask_tokens="encoder"), images()
    assert encoder_tokens(model, truth, noise=noise()).shape == (3, 1 + PATCHES, 48)
    assert model.mask_token.shape == (1, 1, 48)


@pytest.mark.parametrize("k", [1, 3])
def test_forward_is_the_paper_s_algorithm(k):
    """Each image alone, its visible tokens in a random order, placed one by one into a row of mask tokens."""
    model, truth = small(class_tokens=k), images()
    mask = model(truth, noise=noise()).mask
    expected = []
    for image, hidden in zip(truth, mask, strict=True):
        tokens = model.patch_embed((image[None] - model.mean) / model.std)[0] + model.pos_embed[0, 1:]
        visible = (~hidden).nonzero().flatten()
        visible = visible[torch.randperm(len(visible), generator=torch.Generator().manual_seed(0))]
        x = torch.cat([model.cls_token[0] + model.pos_embed[0, :1], tokens[visible]])[None]
        for block in model.blocks:
            x = block(x)
        x = model.decoder_embed(model.norm(x))[0]
        row = model.mask_token[0].repeat(k + PATCHES, 1)
        row[:k] = x[:k]
        for position, token in zip(visible, x[k:], strict=True):
            row[k + position] = token
        row = (row + model.decoder_pos_embed[0, [0] * k + [*range(1, 1 + PATCHES)]])[None]
        for block in model.decoder_blocks:
            row = block(row)
        expected.append(model.decoder_pred(model.decoder_norm(row))[0, k:])
    assert torch.allclose(model(truth, mask=mask).prediction, torch.stack(expected), rtol=0, atol=1e-12)


def test_mask_tokens_in_the_encoder_replace_the_patches_and_keep_their_positions():
    model, truth = small(mask_tokens="encoder"), images()
    mask = model(truth, noise=noise()).mask
    tokens = model.patch_embed((truth - model.mean) / model.std)
    tokens[mask] = model.mask_token[0, 0]
    x = torch.cat([model.cls_token.expand(3, -1, -1), tokens], dim=1) + model.pos_embed
    for block in model.blocks:
        x = block(x)
    x = model.decoder_embed(model.norm(x)) + model.decoder_pos_embed
    for block in model.decoder_blocks:
        x = block(x)
    expected = model.decoder_pred(model.decoder_norm(x))[:, 1:]
    assert torch.allclose(model(truth, mask=mask).prediction, expected, rtol=0, atol=1e-12)


@both_places
def test_the_order_of_class_tokens_means_nothing_to_the_patches(mask_tokens):
    model, truth = small(mask_tokens=mask_tokens, class_tokens=3), images()
    before, encoded = model(truth, noise=noise()).prediction, model.encode(truth)
    with torch.no_grad():
        model.cls_token.copy_(model.cls_token[:, [2, 0, 1]])
    assert torch.allclose(model(truth, noise=noise()).prediction, before, rtol=0, atol=1e-12)
    order = [2, 0, 1, *range(3, 3 + PATCHES)]
    assert torch.allclose(model.encode(truth), encoded[:, order], rtol=0, atol=1e-12)
    assert not torch.allclose(encoded[:, 0], encoded[:, 1])


@both_places
def test_encoding_is_the_forward_pass_with_nothing_hidden(mask_tokens):
    model, truth = small(mask_tokens=mask_tokens), images()
    nothing = torch.zeros(3, PATCHES, dtype=torch.bool)
    encoded = model.encode(truth)
    assert encoded.shape == (3, 1 + PATCHES, 48)
    assert torch.allclose(encoded, encoder_tokens(model, truth, mask=nothing), rtol=0, atol=1e-12)


@both_places
def test_permuting_the_batch_permutes_the_predictions(mask_tokens):
    model, truth, order = small(mask_tokens=mask_tokens), images(), torch.tensor([2, 0, 1])
    whole, permuted = model(truth, noise=noise()), model(truth[order], noise=noise()[order])
    assert torch.allclose(whole.prediction[order], permuted.prediction, rtol=0, atol=1e-12)
    assert torch.equal(whole.mask[order], permuted.mask)
    alone = model(truth[1:2], noise=noise()[1:2])
    assert torch.allclose(whole.prediction[1:2], alone.prediction, rtol=0, atol=1e-12)


def test_a_mask_and_the_noise_behind_it_give_the_same():
    model, truth = small(), images()
    by_noise = model(truth, noise=noise())
    by_mask = model(truth, mask=by_noise.mask)
    assert torch.equal(by_noise.prediction, by_mask.prediction) and torch.equal(by_noise.mask, by_mask.mask)
    assert (by_noise.mask.sum(1) == PATCHES - int(PATCHES * 0.4)).all()


def test_a_mask_may_hide_another_number_than_the_model_s_own():
    mask = torch.arange(PATCHES).expand(3, -1) < 2
    assert torch.equal(small()(images(), mask=mask).mask, mask)


@pytest.mark.parametrize("strategy", ["random", "block", "grid"])
def test_the_model_s_own_masks_follow_its_strategy_and_torch_s_seed(strategy):
    model, truth = small(mask_strategy=strategy), images()
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(model(truth).mask)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2]) == (strategy == "grid")
    assert (masks[0].sum(1) == PATCHES - int(PATCHES * 0.4)).all()
    assert torch.equal(masks[0][0], masks[0][1]) == (strategy == "grid")


def test_rows_that_hide_unequally_are_refused():
    mask = torch.zeros(3, PATCHES, dtype=torch.bool)
    mask[:, :4] = True
    mask[2, 7] = True
    with pytest.raises(ValueError, match="same number"):
        small()(images(), mask=mask)


def test_images_are_standardised_by_the_model():
    truth, mean, std = images(), (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    ours = small(mean=mean, std=std)
    plain = small(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    standardised = (truth - ours.mean) / ours.std
    assert torch.allclose(ours.mean.flatten(), torch.tensor(mean, dtype=torch.float64), atol=1e-7)
    assert torch.equal(ours.encode(truth), plain.encode(standardised))
    assert torch.equal(ours(truth, noise=noise()).prediction, plain(standardised, noise=noise()).prediction)


def test_the_reconstruction_carries_the_truth_and_its_scale():
    model, truth = small(head=NormalisedPixelHead()), images()
    r = model(truth, noise=noise())
    assert r.image is truth and r.head is model.head and r.grid == (3, 5) and r.patch_size == 4
    assert torch.equal(r.mean, model.mean) and torch.equal(r.std, model.std)
    assert r.prediction.shape == (3, PATCHES, 48 + 2)
