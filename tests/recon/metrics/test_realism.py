"""Distances and classifiers of sets of features: other code, closed forms, and what finite samples are apart."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torchmetrics.image.fid import FrechetInceptionDistance

from recon.metrics import realism
from recon.metrics.realism import TITLES, discriminative_scores, feature_scores, frechet, mind
from tests.recon.metrics.scenes import normal


class Flat(torch.nn.Module):
    """Images are their own features."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def formula(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The Fréchet distance by scipy's root of a matrix, of images that count by their weights."""
    means = [np.average(z, axis=0, weights=weights) for z in (x, y)]
    scale = len(x) / (len(x) - 1)
    a, b = (scale * np.cov(z.T, aweights=weights, bias=True) for z in (x, y))
    root = scipy.linalg.sqrtm(a @ b).real
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(a + b - 2 * root))


def test_frechet_is_torchmetrics_and_scipy_s():
    real, fake = normal(60, 3, 2, 2, seed=1), 0.3 + 1.2 * normal(60, 3, 2, 2, seed=2)
    theirs = FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours = frechet(fake.flatten(1), real.flatten(1)).mean().item()
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)
    assert ours == pytest.approx(formula(fake.flatten(1).numpy(), real.flatten(1).numpy()), rel=1e-8)


def test_frechet_of_a_shift_and_of_a_scale_is_known():
    x, shift = normal(50, 6), normal(6, seed=3)
    assert frechet(x + shift, x).mean().item() == pytest.approx(shift.square().sum().item(), rel=1e-9)
    variance = x.var(0).sum().item()
    assert frechet(3 * x - 2 * x.mean(0), x).mean().item() == pytest.approx(4 * variance, rel=1e-9)


def test_frechet_of_fewer_images_than_dimensions_is_that_of_their_subspace():
    x, y = normal(8, 4, seed=1), normal(8, 4, seed=2)
    embedding = torch.linalg.qr(normal(40, 4, seed=3))[0]
    assert torch.allclose(frechet(x @ embedding.T, y @ embedding.T), frechet(x, y), rtol=1e-9, atol=1e-9)


def test_an_image_adds_to_frechet_what_its_weight_changes():
    x, y = normal(20, 3, seed=1), 0.5 + 1.5 * normal(20, 3, seed=2)
    values, step = frechet(x, y), 1e-4
    for i in (0, 7, 19):
        ends = []
        for sign in (1, -1):
            weights = np.ones(20)
            weights[i] += sign * step
            ends.append(formula(x.numpy(), y.numpy(), weights))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert values[i].item() - values.mean().item() == pytest.approx(20 * slope, rel=1e-5)


def test_mind_is_optimal_transport_along_each_direction():
    x, y, projections = normal(15, 4, seed=1), 0.4 + normal(15, 4, seed=2), 7
    directions = torch.randn(projections, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for u in directions / directions.norm(dim=1, keepdim=True):
        cost = ((x @ u)[:, None] - (y @ u)[None]).square().numpy()
        total += cost[linear_sum_assignment(cost)].mean() / projections
    assert mind(x, y, projections).mean().item() == pytest.approx(3 * 4 * total, rel=1e-12)


def test_mind_of_a_shift_is_three_times_its_square():
    x, shift = normal(30, 8), normal(8, seed=1)
    found = mind(x + shift, x, 20_000).mean().item()
    assert found == pytest.approx(3 * shift.square().sum().item(), rel=0.03)  # three standard errors of the directions


@pytest.mark.parametrize("distance", [frechet, mind])
def test_the_standard_error_is_the_deviation_between_replicates(distance):
    """100 replicates give a standard deviation of z to 7%; the tolerance is four times that."""
    found = []
    for seed in range(100):
        y = normal(60, 4, seed=2 * seed)
        values = distance(0.8 + 0.7 * y + 0.9 * normal(60, 4, seed=2 * seed + 1), y)
        found.append((values.mean().item(), values.std().item() / math.sqrt(60)))
    means, errors = np.array(found).T
    assert ((means - means.mean()) / errors).std() == pytest.approx(1, abs=0.28)


@pytest.mark.parametrize(("name", "distance"), [("frechet_distance", frechet), ("mind", mind)])
def test_samples_of_one_distribution_are_apart_and_corrected_values_are_not(name, distance):
    """Images and their reconstructions resemble each other; both sets have one distribution, in 30 dimensions."""
    corrected, plain = [], []
    for seed in range(16):
        y = normal(40, 30, seed=2 * seed)
        x = 0.6 * y + 0.8 * normal(40, 30, seed=2 * seed + 1)
        corrected.append(feature_scores(x, y)[0][name].mean().item())
        plain.append(distance(x, y).mean().item())
    corrected, plain = np.array(corrected), np.array(plain)
    assert abs(corrected.mean()) < 4 * corrected.std() / math.sqrt(16)
    assert plain.mean() > 10 * abs(corrected.mean()) and plain.mean() > 10 * plain.std() / math.sqrt(16)


def test_a_corrected_distance_is_nearer_to_that_of_the_distributions():
    """A shift of 1 in each of 20 dimensions: the distance is 20."""
    y = normal(50, 20)
    found, _ = feature_scores(y * 0.5 + math.sqrt(0.75) * normal(50, 20, seed=1) + 1, y)
    corrected, plain = (found[name].mean().item() for name in ("frechet_distance", "frechet_uncorrected"))
    assert abs(corrected - 20) < 0.5 * abs(plain - 20)


def test_the_classifier_is_scikit_learn_s_cross_validated_by_image():
    x, y = 0.3 + normal(50, 6, seed=1), normal(50, 6, seed=2)
    features, real = np.concatenate([x, y]), np.repeat([False, True], 50)
    image = np.tile(np.arange(50) * 5 // 50, 2)  # an image and its truth are in one fold, ten images each
    machine = make_pipeline(StandardScaler(), LinearSVC(dual=False, C=realism.PENALTY))
    score = cross_val_predict(machine, features, real, groups=image, cv=GroupKFold(5), method="decision_function")
    p_ids, u_ids = discriminative_scores(x, y)
    assert p_ids.mean().item() == (score[:50] > score[50:]).mean()
    assert u_ids.mean().item() == pytest.approx(1 - ((score > 0) == real).mean(), abs=1e-12)


def test_few_images_are_always_separable_and_held_out_ones_are_not():
    """Exchangeable with their truth: a half is expected. The published classifier, on its own images, says nothing."""
    found = []
    for seed in range(20):
        x, y = normal(20, 50, seed=2 * seed), normal(20, 50, seed=2 * seed + 1)
        found.append([scores.mean().item() for scores in discriminative_scores(x, y)])
    found = np.array(found)
    assert (abs(found.mean(0) - 0.5) < 4 * found.std(0) / math.sqrt(20)).all()
    published = LinearSVC(dual=False).fit(np.concatenate([x, y]), np.repeat([0, 1], 20))
    assert published.score(np.concatenate([x, y]), np.repeat([0, 1], 20)) == 1


def test_what_everybody_can_tell_apart_scores_zero():
    y = normal(30, 5)
    p_ids, u_ids = discriminative_scores(y + 10, y)
    assert p_ids.max() == 0 and u_ids.max() == 0


def test_the_truth_is_at_no_distance_and_is_never_told_apart():
    x = normal(30, 40).float()
    found, reasons = feature_scores(x, x.clone())
    assert found.keys() == TITLES.keys() and reasons == {}
    for name, values in found.items():
        expected = 0.5 if name in ("p_ids", "u_ids") else 0
        torch.testing.assert_close(values, torch.full_like(values, expected), rtol=0, atol=1e-9)


def test_an_image_without_features_is_left_out_alone():
    x, y = normal(20, 4, seed=1), normal(20, 4, seed=2)
    broken = x.clone()
    broken[3, 1], broken[5, 0] = math.nan, math.inf
    rest = [i for i in range(20) if i not in (3, 5)]
    found, alone = feature_scores(broken, y)[0], feature_scores(x[rest], y[rest])[0]
    for name, values in found.items():
        assert values.isnan().nonzero().flatten().tolist() == [3, 5]
        assert torch.equal(values[rest], alone[name]), name


def test_too_few_images_have_a_reason_and_a_kernel_distance():
    found, reasons = feature_scores(normal(9, 4), normal(9, 4, seed=1))
    assert found.keys() == {"kid"} and reasons == dict.fromkeys(TITLES.keys() - {"kid"}, "fewer than 10 images")
    assert feature_scores(normal(2, 4), normal(2, 4))[1]["kid"] == "fewer than 3 images"


def test_chunks_do_not_show(monkeypatch):
    x, y = normal(23, 5, seed=1), normal(23, 5, seed=2)
    whole = mind(x, y, 50)
    monkeypatch.setattr(realism, "BLOCK", 4 * 23 * 7)
    torch.testing.assert_close(mind(x, y, 50), whole, rtol=1e-12, atol=1e-12)
