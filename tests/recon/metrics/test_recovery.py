"""The exact test: identities of least squares, and how blur, noise and invention break them."""

import math
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import skimage.data
import torch
from skimage.filters import gaussian

from recon.metrics.base import Images, Undefined, colour_patches
from recon.metrics.recovery import (
    AVERAGED,
    RECOVERY,
    Recovery,
    added_texture,
    band_moments,
    distance_to_visible,
    summary,
)
from recon.metrics.spectrum import bands

GREY = torch.full((3,), 0.45)
PHOTOGRAPHS = ["astronaut", "chelsea", "coffee"]


@cache
def photographs(p: int, blur: float = 0) -> torch.Tensor:
    """Patches of three photographs, (3, N, 3, p, p) float64."""
    pixels = [getattr(skimage.data, name)()[:256, 100:356] / 255 for name in PHOTOGRAPHS]
    if blur:
        pixels = [gaussian(x, blur, channel_axis=2) for x in pixels]
    return colour_patches(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), p)


def random_mask(b: int, n: int, share: float = 0.75) -> torch.Tensor:
    return torch.rand(b, n, generator=torch.Generator().manual_seed(0)) < share


def normal(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recovery(patches: torch.Tensor, true_patches: torch.Tensor, mean: torch.Tensor = GREY) -> Recovery:
    """Of all patches of all images."""
    return Recovery(band_moments(patches, true_patches, torch.ones(patches.shape[:2]), mean).sum(0))


def least_squares_inpainting(p: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every second patch of photographs from the pixels to its left and right: (1, M, 3, p, p) and the truth."""
    rows = photographs(p).unflatten(1, (256 // p, 256 // p))
    targets, left, right = rows[:, :, 1:-1:2], rows[:, :, :-2:2], rows[:, :, 2::2]
    near = torch.cat([left[..., -2:].flatten(3), right[..., :2].flatten(3)], dim=3).flatten(0, 2)
    known = torch.cat([near, torch.ones(len(near), 1)], dim=1)
    true = targets.flatten(0, 2)
    predicted = known @ torch.linalg.lstsq(known, true.flatten(1), driver="gelsd").solution
    return predicted.view_as(true)[None], true[None]


@pytest.mark.parametrize("p", [8, 16])
def test_least_squares_retains_what_it_explains_and_no_more(p):
    """ρ = 1 - e = γ² in every band, whatever constant colour is taken off."""
    for mean in (GREY, torch.tensor([0.9, 0.1, 0.0])):
        r = recovery(*least_squares_inpainting(p), mean)
        assert torch.allclose(r.retention, 1 - r.error, rtol=0, atol=1e-6)
        assert torch.allclose(r.retention, r.coherence, rtol=0, atol=1e-6)
        assert torch.allclose(r.retention, r.gain, rtol=0, atol=1e-6)
        assert (r.calibration_gap < 1e-6).all()
        assert torch.allclose(r.missing, r.error, rtol=0, atol=1e-6)
        assert (r.retention > 0.001).all() and (r.retention < 0.999).all()  # the test is about something


def test_noise_is_invented_energy_and_not_coherent_energy():
    """Noise and its negative side by side are uncorrelated with the truth exactly."""
    predicted, true = (torch.cat([x, x], dim=1) for x in least_squares_inpainting(8))
    noise = 0.05 * normal((1, predicted.shape[1] // 2, *predicted.shape[2:]))
    clean, noisy = recovery(predicted, true), recovery(predicted + torch.cat([noise, -noise], dim=1), true)
    assert (noisy.retention > clean.retention).all() and (noisy.coherence < clean.coherence).all()
    assert torch.allclose(noisy.coherent_retention, clean.coherent_retention, rtol=1e-9, atol=0)
    assert torch.allclose(noisy.invented - clean.invented, noisy.retention - clean.retention, rtol=1e-6, atol=0)
    assert torch.allclose(noisy.calibration_gap, 2 * (noisy.retention - clean.retention), rtol=1e-6, atol=1e-9)
    added = 0.05**2 / (clean.moments[:, 1] / clean.moments[:, 0])
    assert torch.allclose(noisy.retention - clean.retention, added, rtol=0.2)


def test_the_truth_recovers_everything():
    true = photographs(16)
    r = recovery(true, true)
    for name in ("retention", "gain", "coherence", "coherent_retention"):
        assert torch.allclose(getattr(r, name), torch.ones(16).double(), rtol=0, atol=1e-12)
    for name in ("error", "missing", "invented", "calibration_gap"):
        assert torch.allclose(getattr(r, name), torch.zeros(16).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mosaic_of_patch_means_retains_no_texture(dtype):
    true = photographs(8).to(dtype)
    mosaic = true.mean((-2, -1), keepdim=True).expand_as(true)
    r = recovery(mosaic, true)
    assert r.retention[0] == pytest.approx(1, abs=1e-5) and r.coherence[0] == pytest.approx(1, abs=1e-5)
    for name in ("retention", "coherence", "gain", "invented", "calibration_gap"):
        assert (getattr(r, name)[1:] == 0).all()
    assert (r.missing[1:] == 1).all() and (r.error[1:] == 1).all()


def test_blur_lowers_retention_in_every_band_step_by_step():
    true = photographs(8)
    steps = [recovery(photographs(8, blur), true) for blur in (0.3, 0.5, 0.8, 1.2, 2)]
    for name in ("retention", "gain"):
        values = torch.stack([getattr(r, name)[1:] for r in steps])
        assert (values.diff(dim=0) < 0).all() and (values[0] < 1).all()


@pytest.mark.parametrize("certain", [0.2, 0.5, 0.9])
def test_a_likely_draw_keeps_the_energy_and_pays_twice_the_error(certain):
    """c = m + r beside m + r' and beside m: energy 1 with coherence m²; gap 2(1 - γ); the mean has no gap."""
    shape = (1, 4000, 3, 4, 4)
    known = math.sqrt(certain) * normal(shape, 1)
    true, draw = (known + math.sqrt(1 - certain) * normal(shape, seed) for seed in (2, 3))
    drawn, mean = (recovery(x, true, torch.zeros(3)) for x in (draw, known))
    tolerance = 5 * 2 / math.sqrt(12000)  # five deviations; a band has at least 3 x 12000 coefficients' noise below 2
    for found, expected in [
        (drawn.retention, 1),
        (drawn.coherence, certain**2),
        (drawn.calibration_gap, 2 * (1 - certain)),
        (drawn.invented, 1 - certain**2),
        (mean.retention, certain),
        (mean.coherence, certain),
        (mean.error, 1 - certain),
        (mean.calibration_gap, 0),
    ]:
        assert torch.allclose(found, torch.tensor(float(expected)).double(), rtol=0, atol=tolerance)


def test_moments_are_those_of_scipy_s_coefficients():
    true, predicted = photographs(8), photographs(8, blur=1)
    mask, mean = random_mask(3, true.shape[1]), torch.tensor([0.3, 0.5, 0.7])
    found, ring = band_moments(predicted, true, mask, mean), bands(8).numpy()
    assert found.shape == (3, 8, 4) and found.dtype == torch.float64
    for i in range(3):
        c, c_hat = (
            scipy.fft.dctn((x[i][mask[i]] - mean.view(3, 1, 1)).numpy(), axes=(-2, -1), norm="ortho")
            for x in (true, predicted)
        )
        for r in range(8):
            a, b = c[:, :, ring == r], c_hat[:, :, ring == r]
            expected = [a.size, (a * a).sum(), (b * b).sum(), (a * b).sum()]
            np.testing.assert_allclose(found[i, r].numpy(), expected, rtol=1e-6)  # the mean colour is float32


def test_moments_add_up_over_images_and_patches():
    true, predicted = (x.repeat(2, 1, 1, 1, 1)[:5] for x in (photographs(8), photographs(8, blur=1)))
    mask = random_mask(5, true.shape[1])
    whole = band_moments(predicted, true, mask, GREY)
    each = [band_moments(predicted[i : i + 1], true[i : i + 1], mask[i : i + 1], GREY) for i in range(5)]
    assert torch.allclose(whole, torch.cat(each), rtol=1e-12, atol=0)
    first = torch.arange(mask.shape[1]) < 300
    parts = [band_moments(predicted, true, mask & part, GREY) for part in (first, ~first)]
    assert torch.allclose(whole, sum(parts), rtol=1e-12, atol=0)
    assert torch.allclose(whole / 2, band_moments(predicted, true, mask / 2, GREY), rtol=1e-12, atol=0)


def test_patches_without_weight_change_nothing():
    true, predicted = photographs(8), photographs(8, blur=1)
    mask = random_mask(3, true.shape[1])
    visible = ~mask[:, :, None, None, None]
    repainted = [torch.where(visible, 1 - x, x) for x in (predicted, true)]
    assert torch.equal(band_moments(predicted, true, mask, GREY), band_moments(*repainted, mask, GREY))


def test_a_mean_colour_touches_the_mean_alone():
    true, predicted = photographs(8), photographs(8, blur=1)
    weight = torch.ones(true.shape[:2])
    one, other = (band_moments(predicted, true, weight, mean) for mean in (torch.zeros(3), torch.tensor([0.2, 0.5, 1])))
    assert torch.allclose(one[:, 1:], other[:, 1:], rtol=1e-10, atol=0)
    assert not torch.allclose(one[:, 0], other[:, 0], rtol=0.01)


def test_without_true_energy_nothing_is_defined():
    true, predicted = torch.full((1, 4, 3, 8, 8), 0.5), photographs(8)[:1, :4].float()
    r = recovery(predicted, true)
    for name in AVERAGED:
        assert getattr(r, name)[1:].isnan().all()
    assert all(value.isnan() for value in summary(r.moments).values())


def test_nothing_hidden_and_nan_are_not_defined():
    true = photographs(8)[:2]
    for predicted, weight in [(true * math.nan, torch.ones(true.shape[:2])), (true, torch.zeros(true.shape[:2]))]:
        values = summary(band_moments(predicted, true, weight, GREY))
        assert all(value.isnan().all() and value.shape == (2,) for value in values.values())


def test_the_summary_is_the_mean_over_all_bands_but_the_patch_s_mean():
    moments = band_moments(photographs(8, blur=1), photographs(8), torch.ones(3, 1024), GREY)
    values, r = summary(moments), Recovery(moments)
    assert list(values) == [metric.name for metric in RECOVERY]
    for name in AVERAGED:
        assert torch.allclose(values[name], getattr(r, name)[:, 1:].sum(1) / 7, rtol=1e-12, atol=0)
        assert values[name].shape == (3,)
    assert torch.equal(values["invented_share"], values["invented"] / values["retention"])


def test_summaries_stay_within_their_ranges():
    true = photographs(8)
    for predicted in (true, 1 - true, 3 * true, photographs(8, blur=2), normal(true.shape)):
        values = summary(band_moments(predicted, true, torch.ones(true.shape[:2]), GREY))
        for metric in RECOVERY:
            assert (values[metric.name] >= metric.low).all() and (values[metric.name] <= metric.high).all()


def test_patches_below_four_pixels_have_no_bands():
    with pytest.raises(Undefined, match="patches below 4 pixels"):
        band_moments(torch.rand(1, 4, 3, 2, 2), torch.rand(1, 4, 3, 2, 2), torch.ones(1, 4), GREY)


@pytest.mark.parametrize("grid", [(5, 9), (8, 8), (1, 6)])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_the_distance_to_the_visible_is_scipy_s_chessboard_distance(grid, share):
    mask = random_mask(6, grid[0] * grid[1], share)
    mask[:, 3] = False
    found = distance_to_visible(mask, grid)
    assert found.dtype == torch.long
    for i in range(6):
        image = mask[i].view(grid).numpy()
        expected = scipy.ndimage.distance_transform_cdt(image, metric="chessboard")
        assert np.array_equal(found[i].view(grid).numpy(), expected)


def test_with_nothing_visible_every_patch_is_farther_than_any_can_be():
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 0] = False
    found = distance_to_visible(mask, (3, 4))
    assert (found[0] == 4).all() and found[1].max() == 3


def added(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`added_texture` of patches (B, N, 3, p, p), which no image clamps."""
    p = truth.shape[-1]
    each = {name: Images(torch.cat(x.unbind(1), dim=3), p) for name, x in (("predicted", predicted), ("true", truth))}
    return added_texture(SimpleNamespace(patch_size=p, mask=torch.ones(truth.shape[:2]), **each))


def likely(certain: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """White texture of which the share `certain` of the energy is known: the best prediction, a draw, and the truth."""
    shape = (4, 20, 3, 32, 32)
    known = 0.2 * math.sqrt(certain) * normal(shape)
    truth, draw = (0.5 + known + 0.2 * math.sqrt(1 - certain) * normal(shape, seed) for seed in (1, 2))
    return 0.5 + known, draw, truth


@pytest.mark.parametrize("certain", [0.2, 0.5, 0.9])
def test_the_invented_share_of_the_best_prediction_and_of_a_draw_is_known(certain):
    best, draw, truth = likely(certain)
    for predicted, expected in ((best, 1 - certain), (draw, 1 - certain**2), (truth, 0)):
        moments = band_moments(predicted, truth, torch.ones(4, 20), GREY).sum(0)
        assert summary(moments)["invented_share"].item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("certain", [0.2, 0.5, 0.9])
def test_a_draw_adds_the_texture_that_is_not_certain_and_the_best_prediction_nearly_none(certain):
    best, draw, truth = likely(certain)
    assert added(draw, truth).mean().item() == pytest.approx(1 - certain, abs=0.05)
    assert added(best, truth).mean().item() < 0.4 * (1 - certain)


def test_the_truth_made_weaker_adds_no_texture_and_noise_adds_as_much_as_there_can_be():
    truth = photographs(8)
    mean = truth.mean((-2, -1), keepdim=True)
    for strength in (0, 0.3, 1):
        assert added(mean + strength * (truth - mean), truth).max() < 1e-12
    rising = [added(truth + s * normal(truth.shape), truth).mean() for s in (0.003, 0.03, 0.3)]
    assert 0 < rising[0] < rising[1] < rising[2] <= 1 and rising[2] > 0.9
    flat = torch.full((1, 1, 3, 8, 8), 0.5).double()
    assert added(flat + 0.1 * normal(flat.shape), flat) > 0.99 > 0.01 > added(flat + 1e-4, flat)


def test_texture_is_added_patch_by_patch():
    truth = photographs(8)
    predicted = truth + 0.1 * normal(truth.shape) * (torch.arange(truth.shape[1]) % 2)[:, None, None, None]
    found = added(predicted, truth)
    assert found.shape == truth.shape[:2] and (found[:, ::2] == 0).all() and (found[:, 1::2] > 0).all()
    assert torch.allclose(added(predicted[1:2, 5:8], truth[1:2, 5:8]), found[1:2, 5:8], rtol=1e-12)
    with pytest.raises(Undefined, match="below 4 pixels"):
        added(photographs(2), photographs(2))
