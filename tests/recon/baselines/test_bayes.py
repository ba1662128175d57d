"""The best possible reconstruction of Gaussian fields, and the energy that it keeps."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.stats import multivariate_normal
from sklearn.kernel_ridge import KernelRidge
from torch.nn.functional import avg_pool2d

from losses.reconstruction import expand_to_pixels
from recon.baselines.bayes import Bayes, PosteriorDraw, covariance_at, given_each_class, lags
from recon.baselines.classical import Ridge, mean, nearest_visible
from recon.data import create_dataset, evaluation_crop
from recon.data.synthetic import EXPONENTS, MEAN, QUANTISATION, colour_covariance
from recon.metrics.base import Pair, grey_patches
from recon.metrics.fidelity import masked_mse
from recon.metrics.recovery import Recovery, band_moments
from recon.metrics.spectrum import bands
from recon.metrics.uncertainty import blend, moments, per_image_scores

SIZE, PATCH, IMAGES = 16, 4, 400
DRAWN = 160  # of them get draws


def masks(images: int, hidden: int = 10) -> torch.Tensor:
    noise = torch.rand(images, 16, generator=torch.Generator().manual_seed(1))
    return noise.argsort(1) < hidden


def whole_covariance(exponent: float) -> np.ndarray:
    """Of all values of an image, channel by channel, rounding included."""
    pixels = torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE))
    kronecker = torch.kron(colour_covariance(), covariance_at(lags(pixels, pixels), exponent))
    return (kronecker + QUANTISATION * torch.eye(len(kronecker))).numpy()


@pytest.fixture(scope="module")
def fields():
    source = create_dataset("gaussian_field", "val")
    return [source.read(i) for i in range(IMAGES)]


@pytest.fixture(scope="module")
def images(fields):
    return torch.stack([evaluation_crop(image, (SIZE, SIZE), native=True) for image, _ in fields]).double() / 255


@pytest.fixture(scope="module")
def reconstructed(images):
    return Bayes((SIZE, SIZE))(images, masks(len(images)))


@pytest.mark.parametrize("image", [0, 1, 2])
def test_each_class_s_mean_and_likelihood_are_those_of_other_libraries(images, image):
    hidden = expand_to_pixels(masks(3), (4, 4), PATCH)[image, 0]
    log_likelihood, mean = given_each_class(images[image], ~hidden)
    seen, unseen = (where.expand(3, -1, -1).flatten().numpy() for where in (~hidden, hidden))
    values = images[image].flatten().numpy() - MEAN
    theirs = []
    for k, exponent in enumerate(EXPONENTS):
        whole = whole_covariance(exponent)
        theirs.append(multivariate_normal(cov=whole[np.ix_(seen, seen)]).logpdf(values[seen]))
        rounding = KernelRidge(alpha=QUANTISATION, kernel="precomputed")  # its prediction is the conditional mean
        rounding.fit(whole[np.ix_(seen, seen)] - QUANTISATION * np.eye(seen.sum()), values[seen])
        prediction = rounding.predict(whole[np.ix_(unseen, seen)]) + MEAN
        np.testing.assert_allclose(mean[k].flatten()[unseen], prediction, atol=1e-10)
    np.testing.assert_allclose(log_likelihood.diff(), np.diff(theirs), rtol=1e-8)


def test_the_reconstruction_is_the_mean_over_classes_by_their_posterior(images):
    few, mask = images[:20, :, :8, :8], masks(20, hidden=15)  # with 2 x 2 pixels to see, classes are in doubt
    bayes = Bayes((8, 8))
    posterior = bayes.posterior(few, mask)
    assert posterior.sum(1).allclose(torch.ones(20, dtype=torch.float64)) and posterior.amax(1).mean() < 0.97
    hidden = expand_to_pixels(mask, (4, 4), 2)
    means = torch.stack([given_each_class(x, ~h[0])[1] for x, h in zip(few, hidden, strict=True)])
    expected = torch.einsum("bk,bkchw->bchw", posterior, means)
    torch.testing.assert_close(bayes(few, mask), torch.where(hidden, expected, few), rtol=0, atol=1e-12)


def test_hidden_pixels_change_nothing_and_visible_ones_stay(images):
    few, mask = images[:4], masks(4)
    hidden = expand_to_pixels(mask, (4, 4), PATCH)
    bayes = Bayes((SIZE, SIZE))
    blanked = few.masked_fill(hidden, torch.nan)
    out = bayes(few, mask)
    visible = (~hidden).expand_as(few)
    assert torch.equal(out[~visible], bayes(blanked, mask)[~visible]) and torch.equal(out[visible], few[visible])
    assert torch.equal(bayes.posterior(few, mask), bayes.posterior(blanked, mask))


def test_a_batch_is_reconstructed_image_by_image(images, reconstructed):
    bayes = Bayes((SIZE, SIZE))
    alone = torch.cat([bayes(images[i : i + 1], masks(IMAGES)[i : i + 1]) for i in range(5)])
    assert torch.equal(alone, reconstructed[:5])


def test_with_nothing_visible_it_is_the_mean_and_classes_are_equally_likely(images):
    bayes = Bayes((SIZE, SIZE))
    mask = torch.ones(1, 16, dtype=torch.bool)
    assert torch.equal(bayes(images[:1], mask), torch.full_like(images[:1], MEAN))
    assert bayes.posterior(images[:1], mask).allclose(torch.full((1, 3), 1 / 3, dtype=torch.float64))
    assert torch.equal(bayes.exact_retention(mask), torch.zeros(PATCH, dtype=torch.float64))


def test_an_oblong_image_is_reconstructed_as_its_flip_is(images):
    truth, mask = images[:3, :, :8], masks(3)[:, :8]
    bayes = Bayes((8, SIZE))
    flipped = bayes(truth.flip(3), mask.unflatten(1, (2, 4)).flip(2).flatten(1)).flip(3)
    torch.testing.assert_close(bayes(truth, mask), flipped, rtol=0, atol=1e-12)


def test_the_visible_pixels_tell_the_class_and_how_sure_it_is(fields, images):
    """Four patches of 4 x 4 pixels tell every class; one of 2 x 2 misleads as often as the posterior says."""
    labels = torch.tensor([label for _, label in fields])
    bayes = Bayes((SIZE, SIZE))
    assert torch.equal(bayes.posterior(images[:100], masks(100, hidden=12)).argmax(1), labels[:100])
    sure, guess = Bayes((8, 8)).posterior(images[:, :, :8, :8], masks(IMAGES, hidden=15)).max(1)
    wrong, expected = (guess != labels).sum(), (1 - sure).sum()
    assert (wrong - expected).abs() < 3 * (sure * (1 - sure)).sum().sqrt() < 0.5 * expected


def test_no_other_reconstruction_has_less_error(images, reconstructed):
    """Each rival's excess is more than three of its standard errors over images; ridge is fitted on the others."""
    others, images, best = images[:200], images[200:], reconstructed[200:]
    mask = masks(IMAGES)[200:]
    hidden = expand_to_pixels(mask, (4, 4), PATCH)
    rivals = {
        "mean of visible": mean(images, mask),
        "nearest visible": nearest_visible(images, mask),
        "ridge": Ridge.fit([others], PATCH)(images, mask),
        "shrunk": MEAN + 0.8 * (best - MEAN),
        "stretched": MEAN + 1.2 * (best - MEAN),
        "smoothed": avg_pool2d(best, 3, 1, 1, count_include_pad=False),
        "one class": torch.stack([given_each_class(x, ~h[0])[1][1] for x, h in zip(images, hidden, strict=True)]),
    }
    for name, rival in rivals.items():
        excess = masked_mse(rival, images, hidden) - masked_mse(best, images, hidden)
        assert excess.mean() > 3 * excess.std() / len(images) ** 0.5, name


def test_exact_retention_is_what_other_libraries_make_of_the_covariance():
    """Conditional covariance by numpy, DCT by scipy, bands pooled as they are defined."""
    mask = masks(2)
    energies = np.zeros((2, PATCH))
    for where in mask:
        hidden = expand_to_pixels(where[None], (4, 4), PATCH).expand(1, 3, -1, -1)[0].flatten().numpy()
        for exponent in EXPONENTS:
            whole = whole_covariance(exponent)
            across = whole[np.ix_(hidden, ~hidden)]
            kept = across @ np.linalg.solve(whole[np.ix_(~hidden, ~hidden)], across.T)
            for row, covariance_of in enumerate((kept, whole[np.ix_(hidden, hidden)])):
                spot = np.zeros((len(hidden), len(hidden)))
                spot[np.ix_(hidden, hidden)] = covariance_of
                spot = spot.reshape(3, 4, PATCH, 4, PATCH, 3, 4, PATCH, 4, PATCH)
                for c, i, j in np.ndindex(3, 4, 4):
                    patch = spot[c, i, :, j, :, c, i, :, j, :]
                    patch = dctn(dctn(patch, axes=(0, 1), norm="ortho"), axes=(2, 3), norm="ortho")
                    energy = np.diagonal(patch.reshape(16, 16))
                    energies[row] += np.bincount(bands(PATCH).flatten(), energy)
    np.testing.assert_allclose(Bayes((SIZE, SIZE)).exact_retention(mask), energies[0] / energies[1], rtol=1e-9)


def test_measured_retention_coherence_and_error_are_the_exact_ones(images, reconstructed):
    """Within four standard errors over images, of 0.02, 0.008, 0.0025 and 0.0012 at most from the lowest band on."""
    mask = masks(len(images))
    pair = Pair(reconstructed, images, mask)
    moments = band_moments(pair.patches, pair.true_patches, pair.mask, torch.full((3,), MEAN))
    exact = Bayes((SIZE, SIZE)).exact_retention(mask[::10])
    all_images = Recovery(moments.sum(0))
    all_but_one = Recovery(moments.sum(0) - moments)
    for name, expected in (("retention", exact), ("coherence", exact), ("error", 1 - exact)):
        jackknife = getattr(all_but_one, name)
        error = (jackknife - jackknife.mean(0)).square().sum(0).sqrt()
        assert (error < torch.tensor([0.02, 0.008, 0.0025, 0.0012])).all()
        measured = getattr(all_images, name)
        assert ((measured - expected).abs() < 4 * error).all(), name


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def drawn(images, request):
    """So many draws of each of the first `DRAWN` images."""
    return [PosteriorDraw((SIZE, SIZE), draw)(images[:DRAWN], masks(DRAWN)) for draw in range(request.param)]


@pytest.fixture(scope="module")
def judged(images):
    return images[:DRAWN]


@pytest.fixture(scope="module")
def best(reconstructed):
    return reconstructed[:DRAWN]


def ratio_of_errors(rival, best, images):
    """Squared error over that of `best`, over all images, and the standard error of that over images."""
    hidden = expand_to_pixels(masks(len(images)), (4, 4), PATCH)
    ours, least = (masked_mse(x, images, hidden) for x in (rival, best))
    ratio = ours.mean() / least.mean()
    return ratio, (ours - ratio * least).std() / len(images) ** 0.5 / least.mean()


def test_the_mean_of_draws_has_one_and_a_share_of_the_least_error(judged, best, drawn):
    """1 + 1/S of it: twice for one draw. Within four standard errors over images, of 0.04 at most."""
    for draws in range(1, len(drawn) + 1):
        ratio, error = ratio_of_errors(torch.stack(drawn[:draws]).mean(0), best, judged)
        assert error < 0.04 and (ratio - 1 - 1 / draws).abs() < 4 * error, draws


def test_a_draw_keeps_all_energy_and_is_as_coherent_as_can_be(judged, drawn):
    """Per band retention 1, coherence the square of the least error's, error 2 (1 - exact retention)."""
    mask = masks(len(judged))
    exact = Bayes((SIZE, SIZE)).exact_retention(mask[::10])
    pair = Pair(drawn[0], judged, mask)
    moments = band_moments(pair.patches, pair.true_patches, pair.mask, torch.full((3,), MEAN))
    all_images, all_but_one = Recovery(moments.sum(0)), Recovery(moments.sum(0) - moments)
    expected = {"retention": torch.ones_like(exact), "coherence": exact.square(), "error": 2 * (1 - exact)}
    for name, law in expected.items():
        jackknife = getattr(all_but_one, name)
        error = (jackknife - jackknife.mean(0)).square().sum(0).sqrt()
        assert (error < 0.06).all(), name
        assert ((getattr(all_images, name) - law).abs() < 4 * error).all(), name


def test_the_truth_is_one_of_the_draws(judged, drawn):
    """Every rank is as frequent as another, within four standard errors over images, of 0.01 at most."""
    counts = per_image_scores(torch.stack(drawn), judged, masks(len(judged)))["ranks"]
    share = counts / counts.sum(1, keepdim=True)
    error = share.std(0) / len(judged) ** 0.5
    assert (error < 0.01).all() and ((share.mean(0) - 1 / (len(drawn) + 1)).abs() < 4 * error).all()


def test_no_proper_score_prefers_the_best_single_answer_to_the_draws(judged, best, drawn):
    """The least-squares estimate is scored by its absolute error, sqrt(2) times what a Gaussian's own draws score."""
    mask = masks(len(judged))
    of_draws, of_mean = (per_image_scores(answers, judged, mask) for answers in (torch.stack(drawn), best[None]))
    for name in ("crps", "energy_score"):
        gain = of_mean[name] - of_draws[name]
        assert gain.mean() > 20 * gain.std() / len(judged) ** 0.5, name
    ratio = (of_mean["crps"].mean() / of_draws["crps"].mean()).item()
    assert ratio == pytest.approx(2**0.5, abs=0.03)


def test_the_way_from_the_mean_to_a_draw_stays_above_the_frontier(judged, best, drawn):
    """Squared error (1 + alpha²) of the least, at no alpha below what the distance that is left allows."""
    mask = masks(len(judged))
    vectors = [grey_patches(answer, PATCH)[mask].flatten(1) for answer in (best, drawn[0], judged)]
    alphas = [0.0, 0.25, 0.5, 0.75, 1.0]
    mse, w2 = blend(moments(torch.cat(vectors, 1)), PATCH**2, alphas)
    assert [m / mse[0] for m in mse] == pytest.approx([1 + a**2 for a in alphas], abs=0.08)
    assert all(m >= mse[0] + (w2[0] - w) ** 2 for m, w in zip(mse[1:], w2[1:], strict=True))
    assert w2[-1] < 0.2 * w2[0]  # a draw is like the data, but for the number of judged


def test_a_draw_depends_on_image_mask_and_number_alone(images, drawn):
    few, mask = images[:3], masks(3)
    hidden = expand_to_pixels(mask, (4, 4), PATCH).expand_as(few)
    again = PosteriorDraw((SIZE, SIZE))(few.masked_fill(hidden, 0.3), mask)
    alone = PosteriorDraw((SIZE, SIZE))(few[2:], mask[2:])
    assert torch.equal(again[hidden], drawn[0][:3][hidden]) and torch.equal(alone[0], drawn[0][2])
    assert torch.equal(drawn[0][:3][~hidden], few[~hidden])
    assert ((drawn[0] - drawn[1]).abs().amax((1, 2, 3)) > 0.01).all()


def test_with_nothing_visible_a_draw_is_one_of_the_data():
    mask = torch.ones(60, 16, dtype=torch.bool)
    noise = torch.rand(60, 3, SIZE, SIZE)
    draws = torch.cat([PosteriorDraw((SIZE, SIZE), i)(noise[i : i + 1], mask[i : i + 1]) for i in range(60)])
    assert (draws.mean() - MEAN).abs() < 0.05
    assert 0.08 < draws.std() < 0.16  # 0.12 of every value; the largest waves are few in a corner of a field
    assert len({round(float(d.std()), 6) for d in draws}) == 60
