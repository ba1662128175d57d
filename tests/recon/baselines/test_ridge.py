"""Ridge regression of hidden pixels from visible ones."""

import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor

from losses import InvalidSetting
from losses.reconstruction import expand_to_pixels, patchify, unpatchify
from recon.baselines import SIMPLE, Ridge, classical
from recon.data import create_dataset, held_out_images
from recon.metrics.fidelity import masked_mse


def tiles(split: str, size: int, count: int) -> Tensor:
    """Tiles of photographs in random order, (count, 3, size, size) float64."""
    images, noise, _ = held_out_images(
        create_dataset("photos", split), (size, size), count, 0, lambda generator: torch.rand(1, generator=generator)
    )
    return images[noise[:, 0].argsort()].double()


def random_masks(images: int, n: int, visible: int) -> Tensor:
    return torch.rand(images, n, generator=torch.Generator().manual_seed(0)).argsort(1) >= visible


@pytest.fixture(scope="module")
def train() -> Tensor:
    return tiles("train", 16, 240)


@pytest.fixture(scope="module")
def val() -> Tensor:
    return tiles("val", 16, 40)


@pytest.fixture(scope="module")
def fitted(train) -> Ridge:
    """16 patches of 4 pixels, 768 values."""
    return Ridge.fit(train.split(50), 4)


@pytest.fixture(scope="module")
def mask(val) -> Tensor:
    return random_masks(40, 16, 4)


def sklearn_prediction(train: Tensor, test: Tensor, hidden: Tensor, alpha: float) -> Tensor:
    """Values (n, D) and (B, D), hidden (D,) bool -> the hidden ones, predicted: (B, hidden)."""
    regression = SklearnRidge(alpha=alpha, solver="cholesky")
    regression.fit(train[:, ~hidden].numpy(), train[:, hidden].numpy())
    return torch.from_numpy(regression.predict(test[:, ~hidden].numpy()))


def test_it_is_the_ridge_regression_of_scikit_learn_for_a_mask(train, val):
    fitted = Ridge.fit([train], 4, shrinkage=0.03)
    mask = random_masks(1, 16, 4)
    hidden = expand_to_pixels(mask, (4, 4), 4).expand(1, 3, 16, 16).flatten()
    expected = val.flatten(1).clone()
    alpha = len(train) * classical.penalty(fitted.covariance, fitted.shrinkage)
    expected[:, hidden] = sklearn_prediction(train.flatten(1), expected, hidden, alpha).clamp(0, 1)
    torch.testing.assert_close(fitted(val, mask.expand(40, -1)).flatten(1), expected, rtol=0, atol=1e-9)


def test_large_images_are_regressed_by_the_principal_components_of_their_patches(train, val, monkeypatch):
    """Both from scikit-learn; what the components leave out is predicted by its mean."""
    monkeypatch.setattr(classical, "VALUES", 4 * 7 + 1)
    fitted = Ridge.fit(train.split(50), 8, shrinkage=0.03)
    patches, truth = patchify(train, 8), patchify(val, 8)
    pca = PCA(7, svd_solver="full").fit(patches.flatten(0, 1).numpy())
    basis = torch.from_numpy(pca.components_.T)
    codes, mean = patches @ basis, patches.mean(0)
    mask = random_masks(1, 4, 1)
    alpha = len(train) * 0.03 * float(codes.flatten(1).var(0, correction=0).mean())
    hidden = mask[0].repeat_interleave(7)
    predicted = sklearn_prediction(codes.flatten(1), (truth @ basis).flatten(1), hidden, alpha).unflatten(1, (-1, 7))
    truth[:, mask[0]] = mean[mask[0]] + (predicted - codes.mean(0)[mask[0]]) @ basis.T
    expected = unpatchify(truth, (2, 2)).clamp(0, 1)
    torch.testing.assert_close(fitted(val, mask.expand(40, -1)), expected, rtol=0, atol=1e-9)


def test_a_patch_keeps_one_component_at_least(train, monkeypatch):
    monkeypatch.setattr(classical, "VALUES", 5)
    assert Ridge.fit([train], 8).components.shape == (192, 1)


def test_it_beats_the_mean_of_the_visible_colours_on_photographs_it_has_not_seen(fitted, val, mask):
    assert len(fitted.covariance) == 768  # more than there are images
    hidden = expand_to_pixels(mask, (4, 4), 4)
    error = masked_mse(fitted(val, mask), val, hidden).mean()
    assert error < 0.8 * masked_mse(SIMPLE["mean"](val, mask), val, hidden).mean()


def test_it_stays_finite_under_every_shrinkage_and_share_of_hidden_patches(fitted, val):
    for shrinkage in (1e-6, 1.0, 100.0):
        model = Ridge(fitted.mean, fitted.components, fitted.covariance, shrinkage)
        for visible in (1, 4, 15, 16):
            image = model(val[:1], random_masks(1, 16, visible))
            assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1


def test_hidden_pixels_are_never_read_and_visible_ones_are_the_truth(fitted, val, mask):
    hidden = expand_to_pixels(mask, (4, 4), 4)
    image, other = fitted(val, mask), fitted(torch.where(hidden, torch.nan, val), mask)
    assert torch.equal(image, other)
    assert torch.equal(torch.where(hidden, val, image), val)
    assert not torch.allclose(image, val, atol=0.1)


def test_a_batch_is_its_images_one_by_one_in_the_truths_precision(fitted, val, mask):
    alone = torch.cat([fitted(i[None], m[None]) for i, m in zip(val.float(), mask, strict=True)])
    assert alone.dtype == torch.float32
    torch.testing.assert_close(fitted(val, mask).float(), alone, rtol=0, atol=1e-6)


def test_an_image_without_a_visible_patch_is_nan_and_leaves_the_others_alone(fitted, val, mask):
    blind = mask.clone()
    blind[1] = True
    image = fitted(val, blind)
    assert image[1].isnan().all()
    assert torch.equal(image[2:], fitted(val, mask)[2:])


def test_how_the_training_images_are_cut_into_batches_does_not_matter(train, monkeypatch):
    monkeypatch.setattr(classical, "VALUES", 300)
    monkeypatch.setattr(classical, "BASIS_IMAGES", 64)
    monkeypatch.setattr(classical, "HELD_OUT_AMONG", 100)
    one, many = Ridge.fit([train], 4), Ridge.fit((batch for batch in train.split(7)), 4)
    assert one.shrinkage == many.shrinkage
    torch.testing.assert_close(many.mean, one.mean)
    projections = [r.components @ r.components.T for r in (one, many)]
    torch.testing.assert_close(*projections, rtol=0, atol=1e-9)
    torch.testing.assert_close(*(classical.penalty(r.covariance, r.shrinkage) for r in (many, one)))


def test_every_eighth_image_of_a_fixed_number_chooses_the_shrinkage(train, monkeypatch):
    counts = []
    monkeypatch.setattr(classical, "HELD_OUT_AMONG", 100)
    monkeypatch.setattr(
        classical, "best_shrinkage", lambda moments, held_out, n: counts.append((moments.count, *held_out.shape))
    )
    Ridge.fit(train[:, :, :8, :8].split(50), 4)
    assert counts == [(228, 12, 192)]


def test_training_images_without_variance_predict_themselves():
    grey = torch.full((8, 3, 8, 8), 0.4)
    image = Ridge.fit([grey], 4)(torch.zeros(1, 3, 8, 8), torch.tensor([[True, False, True, True]]))
    torch.testing.assert_close(image[:, :, :, :4], torch.full((1, 3, 8, 4), 0.4))


def test_too_few_training_images_are_an_error():
    for images in ([], [torch.rand(4, 3, 8, 8), torch.rand(3, 3, 8, 8)]):
        with pytest.raises(InvalidSetting, match="needs at least 8 training images"):
            Ridge.fit(images, 4)


# Gaussian images, of which the best reconstruction is known ---------------------------------------------------


@pytest.fixture(scope="module")
def gaussian() -> tuple[Tensor, Tensor]:
    """20 000 images (3, 8, 8) with values 0.5 ± 0.08 correlated over some 3 pixels, and their covariance."""
    position = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double()
    space = torch.exp(-torch.cdist(position, position) / 3)
    covariance = 0.08**2 * torch.kron(0.5 * torch.eye(3) + 0.5, space)
    draws = torch.randn(20_000, 192, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (0.5 + draws @ torch.linalg.cholesky(covariance).T).unflatten(1, (3, 8, 8)), covariance


@pytest.fixture(scope="module")
def known(gaussian) -> tuple[Tensor, Tensor, Tensor]:
    """500 fresh images, a mask (1, 16) and the conditional mean of the hidden pixels given the visible ones."""
    images, covariance = gaussian
    images = images[-500:]
    mask = random_masks(1, 16, 4)
    hidden = expand_to_pixels(mask, (4, 4), 2).expand(1, 3, 8, 8).flatten()
    slope = torch.linalg.solve(covariance[~hidden][:, ~hidden], covariance[~hidden][:, hidden])
    best = images.flatten(1).clone()
    best[:, hidden] = 0.5 + (best[:, ~hidden] - 0.5) @ slope
    return images, mask.expand(500, -1), best.view_as(images).clamp(0, 1)


def test_it_approaches_the_conditional_mean_as_images_are_added(gaussian, known):
    """The error beyond the best possible falls as visible values / images: ordinary least squares' excess risk."""
    images, mask, best = known
    hidden = expand_to_pixels(mask, (4, 4), 2)
    unavoidable = masked_mse(best, images, hidden).mean()
    for count in (2_000, 19_000):
        fitted = Ridge.fit(gaussian[0][:count].split(1000), 2)
        excess = float(masked_mse(fitted(images, mask), best, hidden).mean() / unavoidable)
        assert 0.5 < excess / (48 / count) < 1.2


def test_fewer_images_are_shrunk_more(gaussian):
    few, many = (Ridge.fit(gaussian[0][:count].split(1000), 2).shrinkage for count in (64, 10_000))
    assert few >= 10 * many


def test_the_shrinkage_chosen_does_not_depend_on_the_mean_of_the_images(gaussian):
    images = gaussian[0][:64]
    mean = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert Ridge.fit([images], 2).shrinkage == Ridge.fit([images + mean], 2).shrinkage


def test_the_shrinkage_chosen_is_near_the_best_for_images_it_has_not_seen(fitted, val, mask):
    hidden = expand_to_pixels(mask, (4, 4), 4)

    def error(shrinkage: float) -> float:
        model = Ridge(fitted.mean, fitted.components, fitted.covariance, shrinkage)
        return float(masked_mse(model(val[:20], mask[:20]), val[:20], hidden[:20]).mean())

    assert error(fitted.shrinkage) < 1.05 * min(error(s) for s in (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0))
