"""Terms whose target is not pixels, against scikit-image, the network itself and closed forms."""

import numpy as np
import pytest
import torch
from skimage.feature import hog

from losses import InvalidSetting, head_of
from losses.pixel import MSE
from losses.posterior import PrincipalComponents
from losses.reconstruction import patchify
from losses.targets import CELLS, HOG, PCA, Features, PCAHead, histograms_of_gradients
from tests.losses.scenes import gradient_of, one_line, photographs, replaced, scene, term_of

PHOTOGRAPHS = photographs((64, 64))


def components(r, count):
    """A scene whose head predicts so many principal components of its own truth."""
    head = PCAHead(count, PrincipalComponents.fit(r.true_pixels.flatten(0, 1)))
    prediction = torch.randn(*r.mask.shape, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return replaced(r, head=head, prediction=prediction)


@pytest.mark.parametrize("cell", [4, 8])
def test_histograms_are_those_of_scikit_image(cell):
    found = histograms_of_gradients(PHOTOGRAPHS.double(), cell).unflatten(1, (3, 9))
    settings = dict(pixels_per_cell=(cell, cell), cells_per_block=(1, 1), block_norm="L2", feature_vector=False)
    for image, ours in zip(PHOTOGRAPHS.double().numpy(), found, strict=True):
        for channel, own in zip(image, ours.numpy(), strict=True):
            theirs = hog(channel, orientations=9, **settings)[:, :, 0, 0]
            np.testing.assert_allclose(np.moveaxis(own, 0, -1), theirs, atol=2e-7)


def test_hog_of_a_patch_holds_its_own_cells():
    """Zeros as prediction: the value is the mean square of the hidden patches' own histograms, taken one by one."""
    r = scene(1, head=HOG.head, dtype=torch.float64)
    r = replaced(r, prediction=torch.zeros_like(r.prediction))
    cells = histograms_of_gradients(r.image, r.patch_size // CELLS)[0]
    rows, columns = r.grid
    squares = [
        cells[:, CELLS * y : CELLS * (y + 1), CELLS * x : CELLS * (x + 1)].square().mean()
        for y in range(rows)
        for x in range(columns)
        if r.mask[0, y * columns + x]
    ]
    assert float(HOG().value(r)) == pytest.approx(float(torch.stack(squares).mean()), rel=1e-12)


def test_hog_knows_the_direction_of_an_edge_and_not_its_contrast():
    ramp = torch.linspace(0.2, 0.8, 32, dtype=torch.float64).expand(1, 3, 32, 32)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # the border has no gradient
    across, down, faint = (
        histograms_of_gradients(image, 4).unflatten(1, (3, 9)).sum(1)[inside]
        for image in (ramp, ramp.mT, 0.5 + 0.01 * ramp)
    )
    assert across[0, :, 0, 0].tolist() == pytest.approx([3, *[0] * 8]) and down[0, 4].allclose(across[0, 0])
    torch.testing.assert_close(faint, across, rtol=1e-3, atol=0)


def test_hog_needs_an_even_patch():
    with pytest.raises(InvalidSetting) as error:
        HOG.head.decoder_width(3 * 7**2)
    assert "model.patch_size" in one_line(error)


def test_pca_of_all_components_is_mse():
    """An orthonormal basis keeps squared errors."""
    r = components(scene(2, dtype=torch.float64), 192)
    assert float(PCA().value(r)) == pytest.approx(float(MSE().value(r)), rel=1e-12)
    theirs = MSE().value(replaced(r, head=None, prediction=r.pixels))
    assert float(PCA().value(r)) == pytest.approx(float(theirs), rel=1e-12)


def test_pca_leaves_out_what_the_other_components_add():
    """mse = (K / P) pca + the variance of the components that are not predicted."""
    r = components(scene(2, dtype=torch.float64), 24)
    coefficients = r.true_pixels @ r.head.basis.axes
    rest = r.judged_mean(coefficients[..., 24:].square()) * (168 / 192)
    expected = 24 / 192 * PCA().value(r) + rest
    assert float(MSE().value(r)) == pytest.approx(float(expected), rel=1e-9)


def test_pca_draws_what_it_was_asked_for():
    r = components(scene(2, dtype=torch.float64), 24)
    projected = replaced(r, prediction=r.target)
    assert float(PCA().value(projected)) == 0
    torch.testing.assert_close(patchify(projected.standardised_image, 8), r.true_pixels)
    once = replaced(r, image=projected.predicted_image)
    torch.testing.assert_close(once.true_pixels, projected.pixels, rtol=1e-9, atol=1e-9)


def test_pca_predicts_an_eighth_of_a_patch_unless_told_otherwise():
    assert PCAHead().decoder_width(768) == 96  # the paper's
    assert head_of("pca", pca={"components": 5}).decoder_width(192) == 5
    with pytest.raises(InvalidSetting) as error:
        head_of("pca", pca={"components": 200}).decoder_width(192)
    assert "192" in one_line(error)


def test_features_are_the_networks_averages_over_patches():
    r = scene(2, head=head_of("features", features={"weights": "random"}))
    term = term_of("features")
    with torch.no_grad():
        (maps,) = term.net(r.image)
    own = maps[1, :, 2:4, 4:6].mean((1, 2))  # patches of 8 pixels are 2 of the network's 4; this is row 1, column 2
    expected = (own - own.mean()) / own.var(unbiased=False).add(1e-5).sqrt()
    torch.testing.assert_close(term.target(r)[1, r.grid[1] + 2], expected, rtol=1e-4, atol=1e-5)
    exact = replaced(r, prediction=term.target(r))
    assert float(term.value(exact)) == 0 and not gradient_of(term, exact).any()


def test_features_are_as_many_as_the_layer_has():
    assert Features.head_of(Features.Options(tap="conv1_2")).width(192) == 64
    assert Features.head_of(Features.Options()).width(192) == 256


@pytest.mark.parametrize("expression", ["hog", "features"])
def test_there_are_no_pixels(expression):
    r = scene(head=head_of(expression))
    with pytest.raises(ValueError, match=f"{expression} predicts"):
        r.composite  # noqa: B018
