"""Discrete tokens and their cross-entropy, against scikit-learn, torch's own functions and closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn import functional as F

from losses import MSE, InvalidSetting, head_of
from losses.tokenizers import GRID, TOKENIZERS, ColourTokenizer, KMeansTokenizer
from losses.tokens import Tokens, TokensHead
from tests.losses.scenes import VALUES, gradient_of, objective_of, one_line, photographs, replaced, scene

K = 12
KINDS = sorted(TOKENIZERS)
every_kind = pytest.mark.parametrize("kind", KINDS)
each_by_itself = pytest.mark.parametrize("kind", [kind for kind in KINDS if not TOKENIZERS[kind].draws_together])


def tokenizer(kind):
    torch.manual_seed(0)
    return TOKENIZERS[kind](K, 8).double()


def predicted(kind, prediction=None, **settings):
    """A scene whose head predicts tokens, by default at random."""
    head = TokensHead(kind, K, tokenizer(kind))
    r = scene(2, head=head, dtype=torch.float64, **settings)
    return r if prediction is None else replaced(r, prediction=prediction.expand(*r.mask.shape, -1))


def certain(kind, tokens):
    """Logits of which each leaves no doubt: (..., T) -> (..., T * K)."""
    return (200.0 * F.one_hot(tokens, K)).double().flatten(-2)


def some_tokens(kind, shape=(2, 24)):
    tokens = torch.randint(K, (*shape, TOKENIZERS[kind].per_patch), generator=torch.Generator().manual_seed(3))
    assert len(tokens.unique()) == K
    return tokens


def normals(r, draw=0):
    return torch.randn(*r.true_pixels.shape, generator=torch.Generator().manual_seed(draw), dtype=torch.float64)


# Tokenizers


@each_by_itself
def test_the_token_of_an_entry_is_its_index(kind):
    of, tokens = tokenizer(kind), some_tokens(kind)
    assert torch.equal(of.tokens(of.pixels(of.codebook[tokens])), tokens)


def test_the_nearest_entry_is_scikit_learn_s():
    patches = torch.rand(300, VALUES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fitted = KMeans(K, n_init=1, random_state=0).fit(patches.numpy())
    of = tokenizer("kmeans")
    of.codebook.copy_(torch.from_numpy(fitted.cluster_centers_))
    found = of.tokens(patches).squeeze(-1)
    assert found.tolist() == fitted.predict(patches.numpy()).tolist() and len(found.unique()) > K / 2


def test_the_nearest_entry_has_the_least_distance():
    of, patches = tokenizer("kmeans"), torch.randn(40, VALUES, dtype=torch.float64)
    assert torch.equal(of.tokens(patches).squeeze(-1), torch.cdist(patches, of.codebook).argmin(-1))


def test_colours_are_those_of_squares_row_by_row():
    r = scene(1, dtype=torch.float64)
    vectors = ColourTokenizer(K, 8).vectors(r.true_pixels)
    rows, columns = r.grid
    means = F.avg_pool2d(r.standardised_image, 8 // GRID)[0]  # (3, 4 rows, 4 columns)
    for patch in range(rows * columns):
        y, x = (GRID * i for i in divmod(patch, columns))
        own = means[:, y : y + GRID, x : x + GRID].flatten(1).T
        torch.testing.assert_close(vectors[0, patch], own)


def test_a_patch_of_colours_is_flat_within_each_square():
    of = ColourTokenizer(K, 8).double()
    squares = of.codebook[some_tokens("colours", (5,))]
    patches = of.pixels(squares).view(5, 8, 8, 3)
    for row in range(8):
        for column in range(8):
            expected = squares[:, GRID * (row // 2) + column // 2]
            assert torch.equal(patches[:, row, column], expected)


def test_colours_need_sides_of_four_squares():
    with pytest.raises(InvalidSetting) as error:
        head_of("tokens", tokens={"tokenizer": "colours"}).decoder_width(3 * 14**2)
    assert "14" in one_line(error) and "model.patch_size" in one_line(error)


def test_an_unknown_tokenizer_is_one_line():
    with pytest.raises(InvalidSetting) as error:
        head_of("tokens", tokens={"tokenizer": "kmean"})
    assert "losses.tokens.tokenizer=kmean" in one_line(error) and "'kmeans'" in one_line(error)


# Cross-entropy


@every_kind
def test_equal_logits_cost_the_logarithm_of_the_codes(kind):
    r = predicted(kind, torch.zeros(1, dtype=torch.float64)[:, None].expand(1, K * TOKENIZERS[kind].per_patch))
    assert float(Tokens().value(r)) == pytest.approx(math.log(K), rel=1e-12)


@every_kind
def test_the_value_is_torch_s_cross_entropy_of_the_hidden_patches(kind):
    r = predicted(kind)
    tokens = tokenizer(kind).tokens(r.true_pixels)[r.mask]
    logits = r.prediction.unflatten(-1, (TOKENIZERS[kind].per_patch, K))[r.mask]
    expected = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert float(Tokens().value(r)) == pytest.approx(float(expected), rel=1e-12)


@every_kind
def test_certainty_of_the_truth_costs_nothing(kind):
    r = predicted(kind)
    sure = replaced(r, prediction=certain(kind, tokenizer(kind).tokens(r.true_pixels)))
    assert float(Tokens().value(sure)) == 0
    wrong = replaced(r, prediction=certain(kind, (tokenizer(kind).tokens(r.true_pixels) + 1) % K))
    assert float(Tokens().value(wrong)) == pytest.approx(200)


def test_the_codes_and_the_tokenizer_are_settings():
    assert head_of("tokens").width(192) == 512
    assert head_of("tokens", tokens={"codes": 9, "tokenizer": "colours"}).width(192) == 9 * 16
    with pytest.raises(InvalidSetting) as error:
        head_of("tokens", tokens={"codes": 1})
    assert "losses.tokens.codes=1" in one_line(error)


# Renderings


@each_by_itself
def test_certainty_has_one_rendering(kind):
    tokens = some_tokens(kind)
    r = predicted(kind, certain(kind, tokens))
    own = tokenizer(kind)
    expected = own.pixels(own.codebook[tokens])
    for found in (r.pixels, r.head.mode_pixels(r), r.head.sample_pixels(r, normals(r))):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@each_by_itself
def test_the_mean_is_the_sum_of_the_entries_weighted_by_their_probabilities(kind):
    r, own = predicted(kind), tokenizer(kind)
    probable = r.prediction.unflatten(-1, (-1, K)).softmax(-1)
    expected = sum(own.pixels(probable[..., k : k + 1] * own.codebook[k]) for k in range(K))
    torch.testing.assert_close(r.pixels, expected, rtol=1e-12, atol=1e-12)


@each_by_itself
def test_draws_are_as_frequent_as_probable_and_their_mean_tends_to_the_mean(kind):
    logits = torch.randn(1, 1, TOKENIZERS[kind].per_patch * K, generator=torch.Generator().manual_seed(5)).double()
    r, own, draws = predicted(kind, logits), tokenizer(kind), 400
    drawn = torch.stack([r.head.sample_pixels(r, normals(r, i)) for i in range(draws)])
    tokens = own.tokens(drawn).flatten(0, 2)  # draws, images and patches alike: (n, T)
    frequent = F.one_hot(tokens, K).double().mean(0)
    probable = logits.view(-1, K).softmax(-1)
    spread = (probable * (1 - probable) / len(tokens)).sqrt()
    assert ((frequent - probable).abs() < 5 * spread).all()
    mean, error = drawn.mean((0, 1, 2)), drawn.std((0, 1, 2)) / len(tokens) ** 0.5
    assert ((mean - r.pixels[0, 0]).abs() < 5 * error).all()


def test_the_tokens_of_a_patch_are_drawn_apart():
    """Were they drawn by one number, equal distributions would give equal tokens."""
    r = predicted("colours", torch.zeros(1, 16 * K, dtype=torch.float64))
    tokens = tokenizer("colours").tokens(r.head.sample_pixels(r, normals(r)))
    same = (tokens[..., :-1] == tokens[..., 1:]).double().mean()
    assert float(same) == pytest.approx(1 / K, abs=0.05)


@each_by_itself
def test_the_mode_is_the_likeliest_token(kind):
    r = predicted(kind)
    found = tokenizer(kind).tokens(r.head.mode_pixels(r))
    assert torch.equal(found, r.prediction.unflatten(-1, (-1, K)).argmax(-1))


@every_kind
def test_a_pixel_term_beside_tokens_pushes_hidden_logits_alone(kind):
    r = predicted(kind)
    assert torch.equal(gradient_of(MSE(), r).ne(0).any(-1), r.mask)
    result = objective_of("tokens + 10%mse")(r)
    norms = result.terms["tokens"], result.terms["mse"]
    assert float(norms[1].weight * norms[1].gradient_norm) == pytest.approx(0.1 * float(norms[0].gradient_norm))


@every_kind
def test_a_tokenizer_has_nothing_to_train(kind):
    own = TOKENIZERS[kind](K, 8)
    assert not list(own.parameters()) and not any(buffer.requires_grad for buffer in own.buffers())


def test_an_unfitted_tokenizer_is_always_the_same_and_every_code_is_used():
    one, other = (KMeansTokenizer(K, 8).codebook for _ in range(2))
    assert torch.equal(one, other)
    patches = replace(predicted("kmeans").head, tokenizer=None)
    assert torch.equal(patches.for_patches(VALUES).codebook, one)
    r = scene(20, head=patches)
    assert len(patches.for_patches(VALUES).tokens(r.true_pixels).unique()) > K / 2


# Patches that are drawn with their neighbours


def vq_scene(**settings):
    """A network's decoder has a gradient everywhere, and its codes are far apart."""
    return predicted("vq", **settings)


def renderings(r):
    return r.pixels, r.head.mode_pixels(r), r.head.sample_pixels(r, normals(r))


def test_certainty_of_the_truth_draws_what_the_network_makes_of_its_tokens():
    r, own = vq_scene(), tokenizer("vq")
    tokens = own.tokens(r.true_pixels)
    expected = own.pixels(own.codebook[tokens], r.grid)
    for found in renderings(replaced(r, prediction=certain("vq", tokens))):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_hidden_patch_is_drawn_with_the_true_tokens_of_visible_ones_and_with_no_hidden_truth():
    r = vq_scene()
    hidden = r.hidden_pixels
    unseen = replaced(r, image=torch.where(hidden, 1 - r.image, r.image))
    repainted = replaced(r, image=torch.where(hidden, r.image, 1 - r.image))
    guessed = replaced(r, prediction=torch.where(r.mask[..., None], r.prediction, -r.prediction))
    for found, same, other, third in zip(*map(renderings, (r, unseen, repainted, guessed)), strict=True):
        assert torch.equal(found, same) and torch.equal(found, third)
        assert not torch.equal(found[r.mask], other[r.mask])


def test_hidden_patches_alone_are_drawn_as_among_all():
    r = vq_scene()
    indices = r.mask.nonzero()[:, 1].view(2, -1)
    few = r.prediction.gather(1, indices[..., None].expand(-1, -1, K))
    alone = replaced(r, prediction=few, indices=indices)
    torch.testing.assert_close(alone.pixels, r.pixels[r.mask].view_as(alone.pixels))
    torch.testing.assert_close(alone.composite, r.composite)


def test_compared_over_all_patches_the_predictions_of_visible_ones_are_drawn():
    r = vq_scene(over="all")
    assert gradient_of(MSE(), r, "all").ne(0).any(-1).all()


def test_without_its_neighbours_a_patch_is_not_drawn():
    r = vq_scene()
    with pytest.raises(ValueError, match="together"):
        r.head.pixels(r.prediction, VALUES)


def test_photographs_are_nearer_to_their_tokens_than_to_others():
    r = scene(4, head=TokensHead("colours", 64), size=(64, 64))
    r = replaced(r, image=photographs((64, 64)))
    own = r.head.for_patches(VALUES)
    tokens = own.tokens(r.true_pixels)
    near, far = (own.pixels(own.codebook[t]) for t in (tokens, (tokens + 7) % 64))
    assert (near - r.true_pixels).square().mean() < 0.2 * (far - r.true_pixels).square().mean()
