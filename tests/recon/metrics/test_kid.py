"""Kernel Inception distance, of independent and of paired sets."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from recon.metrics import distribution
from recon.metrics.base import Undefined
from recon.metrics.distribution import kid, paired_kid


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
    return (float(x @ y) / len(x) + 1) ** 3


def standard_error(values: torch.Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))


class Flat(torch.nn.Module):
    """Images are their own features."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
@pytest.mark.parametrize("shift", [0, 0.5])
def test_kid_is_torchmetrics_over_one_subset_of_everything(shift):
    real, fake = normal(40, 3, 2, 2, seed=1).float(), shift + normal(40, 3, 2, 2, seed=2).float()
    theirs = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=40)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    assert kid(real.flatten(1), fake.flatten(1))[0] == pytest.approx(theirs.compute()[0].item(), rel=1e-5, abs=1e-7)


def test_kid_of_unequal_sets_is_the_sum_over_pairs():
    a, b = normal(5, 3, seed=1), 0.3 + normal(7, 3, seed=2)
    within = [np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert kid(a, b)[0] == pytest.approx(sum(within) - 2 * across, rel=1e-12)


def test_kid_s_standard_error_is_the_jackknife_s():
    a, b = normal(6, 3, seed=1), 0.3 + normal(8, 3, seed=2)
    variance = 0
    for x, without in ((a, lambda rest: kid(rest, b)[0]), (b, lambda rest: kid(a, rest)[0])):
        values = np.array([without(torch.cat([x[:i], x[i + 1 :]])) for i in range(len(x))])
        variance += (len(x) - 1) / len(x) * ((values - values.mean()) ** 2).sum()
    assert kid(a, b)[1] == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_paired_kid_is_the_sum_over_pairs_of_two_images():
    x, y = normal(6, 4, seed=1), normal(6, 4, seed=2)
    terms = [
        kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i])
        for i in range(6)
        for j in range(6)
        if i != j
    ]
    assert paired_kid(x, y).mean().item() == pytest.approx(np.mean(terms), rel=1e-12)


def test_paired_values_are_what_the_jackknife_makes_of_leaving_each_image_out():
    x, y = normal(7, 4, seed=1), normal(7, 4, seed=2)
    whole = paired_kid(x, y).mean()
    for i, value in enumerate(paired_kid(x, y)):
        rest = [j for j in range(7) if j != i]
        assert value.item() == pytest.approx((7 * whole - 6 * paired_kid(x[rest], y[rest]).mean()).item(), rel=1e-9)


def test_blocks_do_not_show(monkeypatch):
    x, y = normal(23, 5, seed=1), normal(23, 5, seed=2)
    whole = kid(x, y), paired_kid(x, y)
    monkeypatch.setattr(distribution, "BLOCK", 4 * 23 * 5)
    assert kid(x, y) == pytest.approx(whole[0], rel=1e-10)
    assert torch.allclose(paired_kid(x, y), whole[1], rtol=1e-10, atol=0)


def test_standard_errors_of_different_sets_are_the_deviation_between_replicates():
    """200 replicates give a standard deviation of z to 5%; the tolerance is four times that."""
    unpaired, paired = [], []
    for seed in range(200):
        x, y = uniform(50, 8, seed=2 * seed), uniform(50, 8, seed=2 * seed + 1)
        unpaired.append(kid(x + 0.2, y))
        values = paired_kid(0.5 * x + 0.7 * y, y)
        paired.append((float(values.mean()), standard_error(values)))
    for replicates in (np.array(unpaired), np.array(paired)):
        z = (replicates[:, 0] - replicates[:, 0].mean()) / replicates[:, 1]
        assert z.std() == pytest.approx(1, abs=0.2)


def test_the_standard_error_of_equal_sets_is_too_large_by_no_more_than_it_says():
    replicates = np.array([kid(normal(50, 3, seed=2 * i), normal(50, 3, seed=2 * i + 1)) for i in range(200)])
    z = replicates[:, 0] / replicates[:, 1]
    assert abs(z.mean()) < 4 / math.sqrt(200) and math.sqrt(0.5) - 0.2 < z.std() < 1.1


def test_pairing_biases_kid_and_not_paired_kid():
    """Features of an image and its reconstruction correlate, and both sets have one distribution: the truth is 0."""
    unpaired, paired = [], []
    for seed in range(100):
        x, z = normal(30, 4, seed=2 * seed), normal(30, 4, seed=2 * seed + 1)
        y = 0.9 * x + math.sqrt(1 - 0.9**2) * z
        unpaired.append(kid(x, y)[0])
        paired.append(float(paired_kid(x, y).mean()))
    unpaired, paired = torch.tensor(unpaired), torch.tensor(paired)
    assert abs(paired.mean()) < 4 * standard_error(paired)
    assert unpaired.mean() < -10 * standard_error(unpaired)


def test_the_truth_is_at_no_distance_from_itself():
    x = normal(50, 64).float()
    assert torch.equal(paired_kid(x, x.clone()), torch.zeros(50, dtype=torch.float64))


def test_an_image_without_features_is_left_out_alone():
    x, y = normal(9, 4, seed=1), normal(9, 4, seed=2)
    broken = x.clone()
    broken[3, 1], broken[5, 0] = math.nan, math.inf
    rest = [i for i in range(9) if i not in (3, 5)]
    values = paired_kid(broken, y)
    assert values.isnan().nonzero().flatten().tolist() == [3, 5]
    assert torch.equal(values[rest], paired_kid(x[rest], y[rest]))


@pytest.mark.parametrize("metric", [kid, paired_kid])
def test_two_images_are_no_set(metric):
    with pytest.raises(Undefined, match="fewer than 3 images"):
        metric(normal(2, 4), normal(2, 4, seed=1))
