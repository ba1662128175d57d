"""PCA and k-means of windows: what they complete hidden patches by, and how they are fitted."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from losses import InvalidSetting
from losses.reconstruction import expand_to_pixels, patchify
from recon.baselines import SIMPLE, Ridge, WindowKMeans, WindowPCA, WindowSample, windows
from recon.baselines.bayes import Bayes
from recon.baselines.windows import Window, WindowModel
from recon.data import create_dataset, evaluation_crop
from recon.metrics.fidelity import masked_mse
from tests.recon.baselines.test_ridge import random_masks, tiles

both = pytest.mark.parametrize("model", [WindowPCA, WindowKMeans])


def sampled(images: Tensor, patch_size: int, seed: int = 0) -> WindowSample:
    sample = WindowSample(patch_size, seed)
    assert torch.equal(torch.cat(list(sample.drawn_from(images.split(50)))), images)
    return sample


@pytest.fixture(scope="module")
def sample() -> WindowSample:
    """Windows of 12 pixels around patches of 4."""
    return sampled(tiles("train", 24, 200), 4)


@pytest.fixture(scope="module")
def fitted(sample) -> dict[type[WindowModel], WindowModel]:
    return {WindowPCA: WindowPCA.fit(sample), WindowKMeans: WindowKMeans.fit(sample, 64)}


@pytest.fixture(scope="module")
def val() -> Tensor:
    """Oblong, 4 x 6 patches."""
    return tiles("val", 24, 30)[:, :, 4:20]


@pytest.fixture(scope="module")
def mask() -> Tensor:
    return random_masks(30, 24, 7)


@both
def test_hidden_pixels_are_never_read_and_visible_ones_are_the_truth(fitted, model, val, mask):
    hidden = expand_to_pixels(mask, (4, 6), 4)
    image, other = fitted[model](val, mask), fitted[model](torch.where(hidden, torch.nan, val), mask)
    assert torch.equal(image, other) and image.min() >= 0 and image.max() <= 1
    assert torch.equal(torch.where(hidden, val, image), val)
    assert not torch.allclose(image, val, atol=0.1)


@both
def test_a_batch_is_its_images_one_by_one_in_the_truths_precision(fitted, model, val, mask):
    alone = torch.cat([fitted[model](i[None], m[None]) for i, m in zip(val.float(), mask, strict=True)])
    assert alone.dtype == torch.float32
    torch.testing.assert_close(fitted[model](val, mask).float(), alone, rtol=0, atol=1e-6)


@both
def test_an_image_without_a_visible_patch_is_nan_and_leaves_the_others_alone(fitted, model, val, mask):
    blind = mask.clone()
    blind[1] = True
    image = fitted[model](val, blind)
    assert image[1].isnan().all()
    torch.testing.assert_close(image[2:], fitted[model](val, mask)[2:], rtol=0, atol=1e-12)


@both
def test_an_image_without_a_hidden_patch_comes_back(fitted, model, val):
    assert torch.equal(fitted[model](val, torch.zeros(30, 24, dtype=torch.bool)), val)


@both
def test_a_patch_without_a_visible_neighbour_is_the_middle_of_the_mean_window(sample, fitted, model, val):
    mask = torch.ones(30, 24, dtype=torch.bool)
    mask[:, 0] = False
    image = fitted[model](val, mask).unflatten(2, (4, 4)).unflatten(4, (6, 4))
    expected = sample_windows(sample).mean(0).unflatten(0, (12, 12, 3))[4:8, 4:8].permute(2, 0, 1)
    for row, column in ((0, 2), (2, 0), (3, 5)):
        torch.testing.assert_close(image[:, :, row, :, column], expected.expand(30, -1, -1, -1), rtol=0, atol=1e-6)
    assert not torch.allclose(image[:, :, 1, :, 1], expected, atol=0.1)  # a neighbour of the visible one


@both
def test_images_without_variance_predict_themselves(model):
    """Also where there are fewer windows than entries."""
    grey = torch.full((10, 3, 12, 12), 0.4)
    image = model.fit(sampled(grey, 4))(grey, random_masks(10, 9, 4))
    torch.testing.assert_close(image, grey)


@both
def test_a_fit_is_repeated_to_the_same_bits_and_depends_on_the_seed_of_its_places(model, val, mask):
    images = tiles("train", 24, 60)
    one, again, other = (model.fit(sampled(images, 4, seed))(val, mask) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.allclose(one, other, atol=1e-3)


@both
def test_without_training_images_there_is_no_model(model):
    with pytest.raises(InvalidSetting, match="need training images"):
        model.fit(WindowSample(4))


def by_search(model: WindowModel, images: Tensor, mask: Tensor, complete) -> np.ndarray:
    """Every hidden patch by `complete(window values, which are visible, which are wanted)`, patch by patch."""
    p, m = model.window.patch_size, model.window.margin
    out = images.numpy().copy()
    height, width = out.shape[2:]
    for b, row, column in np.argwhere(mask.unflatten(1, (height // p, width // p)).numpy()):
        values, visible, wanted = [], [], []
        for y in range(row * p - m, (row + 1) * p + m):
            for x in range(column * p - m, (column + 1) * p + m):
                inside = 0 <= y < height and 0 <= x < width
                seen = inside and not mask[b, y // p * (width // p) + x // p]
                for channel in range(3):
                    values.append(float(images[b, channel, y, x]) if seen else np.nan)
                    visible.append(seen)
                    wanted.append(y // p == row and x // p == column)
        found = complete(np.array(values), np.array(visible), np.array(wanted)).reshape(p, p, 3)
        out[b, :, row * p : (row + 1) * p, column * p : (column + 1) * p] = found.transpose(2, 0, 1)
    return out.clip(0, 1)


def test_pca_is_the_conditional_mean_of_its_gaussian(fitted, val, mask):
    """E[hidden | visible] of N(m, W W' + s² I), by numpy, also at borders."""
    pca = fitted[WindowPCA]
    assert isinstance(pca, WindowPCA) and pca.loadings.shape == (432, 200)
    mean = pca.mean.numpy()
    covariance = (pca.loadings @ pca.loadings.T).numpy() + pca.noise * np.eye(432)

    def complete(values, visible, wanted):
        slope = np.linalg.solve(covariance[np.ix_(visible, visible)], covariance[np.ix_(visible, wanted)])
        return mean[wanted] + (values[visible] - mean[visible]) @ slope

    expected = by_search(pca, val[:6], mask[:6], complete)
    np.testing.assert_allclose(pca(val[:6], mask[:6]).numpy(), expected, rtol=0, atol=1e-9)


def test_k_means_takes_the_nearest_entry_on_the_visible_pixels(fitted, val, mask):
    """By distances to all entries, also at borders."""
    means = fitted[WindowKMeans]
    assert isinstance(means, WindowKMeans) and means.entries.shape == (64, 432)
    entries, used = (means.mean + means.entries).numpy(), set()

    def complete(values, visible, wanted):
        if not visible.any():
            return means.mean.numpy()[wanted]
        nearest = np.linalg.norm(entries[:, visible] - values[visible], axis=1).argmin()
        used.add(nearest)
        return entries[nearest][wanted]

    expected = by_search(means, val, mask, complete)
    np.testing.assert_allclose(means(val, mask).numpy(), expected, rtol=0, atol=1e-12)
    assert len(used) > 30


def low_rank(count: int) -> tuple[Tensor, Tensor]:
    """Images of one window (6 x 6 pixels) from W z + noise of variance 1e-4; W (108, 4), its order that of a window."""
    generator = torch.Generator().manual_seed(0)
    loadings = 0.03 * torch.randn(108, 4, dtype=torch.float64, generator=generator)
    codes = torch.randn(count, 4, dtype=torch.float64, generator=generator)
    values = 0.5 + codes @ loadings.T + 0.01 * torch.randn(count, 108, dtype=torch.float64, generator=generator)
    return values.unflatten(1, (6, 6, 3)).permute(0, 3, 1, 2), loadings


def test_pca_finds_the_gaussian_that_images_were_drawn_from():
    """The noise within 1%; the conditional mean by the true covariance, but for 1/100 of the error that is left."""
    images, loadings = low_rank(3000)
    pca = WindowPCA.fit(sampled(images, 2), components=4)
    assert pca.noise == pytest.approx(1e-4, rel=0.01)
    mask = torch.tensor([[False, True, True, False, True, False, True, True, False]])
    hidden = expand_to_pixels(mask, (3, 3), 2)[0].permute(1, 2, 0).expand(-1, -1, 3).flatten()
    covariance = loadings @ loadings.T + 1e-4 * torch.eye(108, dtype=torch.float64)
    slope = torch.linalg.solve(covariance[~hidden][:, ~hidden], covariance[~hidden][:, hidden])
    values = images.permute(0, 2, 3, 1).flatten(1).clone()
    values[:, hidden] = 0.5 + (values[:, ~hidden] - 0.5) @ slope
    best = patchify(values.unflatten(1, (6, 6, 3)).permute(0, 3, 1, 2), 2)[:, 4]
    found, truth = patchify(pca(images, mask.expand(3000, -1)), 2)[:, 4], patchify(images, 2)[:, 4]
    assert (found - best).square().mean() < 0.01 * (truth - best).square().mean()


def test_the_noise_and_covariance_are_those_of_scikit_learn():
    """`get_covariance` of all windows, in float64."""
    sample = sampled(tiles("train", 24, 200), 2)
    pca, theirs = WindowPCA.fit(sample, 20), PCA(20, svd_solver="full").fit(sample_windows(sample).numpy())
    assert pca.noise == pytest.approx(theirs.noise_variance_, rel=1e-4)
    ours = (pca.loadings @ pca.loadings.T).numpy() + pca.noise * np.eye(108)
    np.testing.assert_allclose(ours, theirs.get_covariance(), rtol=0, atol=1e-5)


def test_with_all_components_pca_is_the_linear_regression_without_shrinkage():
    """Of the ridge regression on the same windows; the last direction's variance is the noise."""
    images = tiles("train", 6, 3000)
    pca, ridge = WindowPCA.fit(sampled(images, 2), components=107), Ridge.fit([images], 2, shrinkage=1e-9)
    mask = random_masks(1, 9, 4)
    mask[0, 4] = True
    found, expected = (patchify(model(images[:50], mask.expand(50, -1)), 2)[:, 4] for model in (pca, ridge))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_on_fields_of_known_law_pca_agrees_with_ridge_regression_and_neither_beats_the_conditional_mean():
    """The fields are a mixture of three Gaussians, so that no linear regression is best."""
    source = create_dataset("gaussian_field", "train")
    crops = [evaluation_crop(source.read(i)[0], (6, 6), native=True) for i in range(1200)]
    images = torch.stack(crops).double() / 255
    train, test = images[:1000], images[1000:]
    mask = random_masks(1, 9, 4)
    mask[0, 4] = True
    mask = mask.expand(200, -1)
    middle = torch.zeros(200, 1, 6, 6, dtype=torch.bool)
    middle[:, :, 2:4, 2:4] = True
    models = {"pca": WindowPCA.fit(sampled(train, 2), 100), "ridge": Ridge.fit([train], 2), "bayes": Bayes((6, 6))}
    errors = {name: masked_mse(model(test, mask), test, middle) for name, model in models.items()}
    bayes, pca, ridge = (float(errors[name].mean()) for name in ("bayes", "pca", "ridge"))
    assert pca == pytest.approx(ridge, rel=0.08) and bayes < min(pca, ridge) and pca < 1.2 * bayes


def test_with_an_entry_for_each_window_k_means_recovers_a_hidden_patch(monkeypatch):
    """Of images that are one window each."""
    images = tiles("train", 12, 40)
    monkeypatch.setattr(windows, "PER_IMAGE", 1)
    means = WindowKMeans.fit(sampled(images, 4))
    assert len(means.entries) == 40
    mask = torch.zeros(40, 9, dtype=torch.bool)
    mask[:, [0, 3, 4, 5, 7]] = True
    found = patchify(means(images, mask), 4)[:, 4]
    torch.testing.assert_close(found, patchify(images, 4)[:, 4], rtol=0, atol=1e-6)


def test_on_photographs_both_beat_the_mean_colour_and_pca_beats_k_means(fitted, val):
    """With a third hidden, so that every patch has visible neighbours."""
    mask = random_masks(30, 24, 16)
    hidden = expand_to_pixels(mask, (4, 6), 4)
    errors = {model: masked_mse(fitted[model](val, mask), val, hidden).mean() for model in fitted}
    assert errors[WindowPCA] < 0.9 * errors[WindowKMeans]
    assert errors[WindowKMeans] < 0.9 * masked_mse(SIMPLE["mean"](val, mask), val, hidden).mean()


def sample_windows(sample: WindowSample) -> Tensor:
    """(n, D) float64, not centred."""
    _, mean, centred = sample.centred()
    return mean + centred.double()


@pytest.mark.parametrize(
    ("size", "patch_size", "margin"),
    [((64, 64), 8, 8), ((224, 224), 16, 8), ((32, 32), 4, 4), ((16, 40), 8, 4), ((8, 8), 8, 0)],
)
def test_a_window_reaches_to_the_neighbours_no_further_than_the_image_and_8_pixels(size, patch_size, margin):
    window = Window.within(size, patch_size)
    assert window.margin == margin
    counts = window.cells().bincount(minlength=9).unflatten(0, (3, 3))
    edges = torch.tensor([margin, patch_size, margin])
    assert torch.equal(counts, 3 * edges[:, None] * edges)


@both
def test_an_image_of_one_or_two_patches_has_its_rows_too(model):
    for size in ((8, 8), (8, 16), (16, 16)):
        images = torch.rand(20, 3, *size, generator=torch.Generator().manual_seed(0))
        mask = random_masks(20, size[0] * size[1] // 64, 1)
        assert model.fit(sampled(images, 8))(images, mask).isfinite().all()


def test_windows_are_pieces_of_the_images_at_all_places():
    """Of images whose pixels say where they are, each eight."""
    row, column, number = torch.meshgrid(*(torch.arange(n) / 100.0 for n in (15, 19, 40)), indexing="ij")
    sample = sampled(torch.stack([row, column, number]).permute(3, 0, 1, 2), 4)
    found = sample_windows(sample).unflatten(1, (12, 12, 3)) * 100
    corners = found[:, 0, 0]  # (n, 3)
    within = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(12), torch.arange(1), indexing="ij"), -1)
    torch.testing.assert_close(found, corners[:, None, None] + within[:, :, 0], rtol=0, atol=1e-4)
    corners = corners.round().long()
    assert torch.equal(corners[:, 2], torch.arange(40).repeat_interleave(8))
    assert len(corners[:, :2].unique(dim=0)) == 4 * 8  # every place


def test_how_the_training_images_are_cut_into_batches_does_not_matter():
    images, other = tiles("train", 24, 60), WindowSample(4)
    list(other.drawn_from(images.split(7)))
    assert torch.equal(sample_windows(other), sample_windows(sampled(images, 4)))


def test_no_more_windows_are_kept_than_there_is_memory_for(monkeypatch):
    monkeypatch.setattr(windows, "SAMPLED_VALUES", 433 * 100)
    images = tiles("train", 24, 120)
    assert len(sample_windows(sampled(images, 4))) == 96


def test_few_windows_have_few_components():
    images = tiles("train", 24, 300)
    assert [WindowPCA.fit(sampled(images[:n], 4)).loadings.shape[1] for n in (1, 16, 300)] == [1, 16, 216]
