"""The linear probe: known optima, scikit-learn's classifiers, and what must not matter."""

import json

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from losses import InvalidSetting
from recon.metrics.feature_networks import VGG19Features
from recon.probing import linear
from recon.probing.labelled import stratified_split
from recon.probing.linear import DECAYS, LinearProbe, choose, linear_probe, loss_and_gradient, softmax_regressions

SMALL = (0.1, 1e-2, 1e-3)


@pytest.fixture(scope="module")
def digits():
    """Real images, 8 x 8 pixels: 900 to train on, 897 to test on."""
    pixels, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    pixels, labels = pixels[order].float(), labels[order].long()
    return pixels[:900], labels[:900], pixels[900:], labels[900:]


@pytest.fixture(scope="module")
def small(digits) -> LinearProbe:
    """The digits' probe over a small grid, with seed 0."""
    return linear_probe(*digits[:2], 10, decays=SMALL)


def two_gaussians(n: int, dimensions: int = 8) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Features and labels of two equally frequent classes at 0 and `mean`, with a covariance of condition 400."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(dimensions, dimensions, generator=generator) @ torch.logspace(-0.7, 0.6, dimensions).diag()
    mean = root @ torch.full((dimensions,), 2 / dimensions**0.5)  # Mahalanobis distance 2
    labels = torch.arange(n) % 2
    features = labels[:, None] * mean + torch.randn(n, dimensions, generator=generator) @ root.T
    return features, labels, mean.double().numpy(), (root @ root.T).double().numpy()


def test_two_gaussians_are_told_apart_as_well_as_can_be():
    features, labels, mean, covariance = two_gaussians(6000)
    fitted = linear_probe(features, labels, 2).head
    direction = ((fitted.weight[:, 1] - fitted.weight[:, 0]) / fitted.std).double().numpy()
    offset = (fitted.bias[1] - fitted.bias[0]).item() - direction @ fitted.mean.double().numpy()
    spread = np.sqrt(direction @ covariance @ direction)
    reached = scipy.stats.norm.cdf(np.array([-offset, direction @ mean + offset]) / spread).mean()
    bayes = scipy.stats.norm.cdf(1)  # Phi(Delta / 2)
    assert bayes - 0.003 < reached <= bayes


def test_what_is_linearly_separable_is_separated():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 8, generator=generator)
    scores = features @ torch.randn(8, 3, generator=generator)
    best = scores.topk(2).values
    clear = best[:, 0] - best[:, 1] > 1
    features, labels = features[clear], scores.argmax(1)[clear]
    head = linear_probe(features[:1500], labels[:1500], 3).head
    assert torch.equal(head.predict(features), labels) and len(labels) > 2500


def test_the_gradient_is_autograd_s(digits, monkeypatch):
    monkeypatch.setattr(linear, "CHUNK", 400)
    x, labels = digits[0] / 16, digits[1]
    weights = torch.randn(65, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(x.double() @ weights[:-1] + weights[-1], labels)
    expected = expected + 0.3 / 2 * weights[:-1].square().sum()
    (gradient,) = torch.autograd.grad(expected, weights)
    value, found = loss_and_gradient(x, labels, weights.detach(), 0.3)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("images", [900, 50])  # more than the 64 features, and fewer
def test_every_decay_is_scikit_learn_s_optimum(digits, images):
    features, labels, queries, _ = digits
    decays = (1.0, 1e-1, 1e-2, 1e-3)
    for decay, head in zip(decays, softmax_regressions(features[:images], labels[:images], 10, decays), strict=True):
        x, y = ((part - head.mean) / head.std for part in (features[:images], queries))
        theirs = LogisticRegression(C=1 / (decay * images), tol=1e-6, max_iter=1000)
        theirs.fit(x.numpy(), labels[:images].numpy())
        coefficients = torch.from_numpy(theirs.coef_.T).float()
        assert (head.weight - coefficients).norm() / coefficients.norm() < 0.01, decay
        assert (head.predict(queries).numpy() == theirs.predict(y.numpy())).mean() > 0.995, decay
        assert head.excess < linear.CONVERGED, decay


def test_a_probe_that_has_not_converged_says_so(digits, small, monkeypatch):
    assert small.as_dict()["converged"]
    monkeypatch.setattr(linear, "MAX_STEPS", 3)
    assert not linear_probe(*digits[:2], 10, decays=SMALL).as_dict()["converged"]


def test_features_that_go_together_need_few_steps(monkeypatch):
    """Condition 1e8: without scaling along the principal axes thousands of steps would not do."""
    monkeypatch.setattr(linear, "MAX_STEPS", 60)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(40, 40, generator=generator) @ torch.logspace(0, -4, 40).diag() + 1
    features = torch.randn(500, 40, generator=generator) @ mixed
    labels = torch.randint(3, (500,), generator=generator)
    assert all(head.excess < linear.CONVERGED for head in softmax_regressions(features, labels, 3, DECAYS))


def test_digits_are_read_as_well_as_by_scikit_learn_at_its_best(digits):
    features, labels, queries, truth = digits
    head = linear_probe(features, labels, 10).head
    ours = (head.predict(queries) == truth).double().mean().item()
    assert ours > best_of_scikit_learn(head, features, labels, queries, truth) - 0.005


def test_features_of_real_images_are_read_as_well_as_by_scikit_learn(shared):
    net, root = VGG19Features(), shared / "data" / "imagenette"

    def read(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = [], []
        for label, folder in enumerate(sorted((root / split).iterdir())):
            for path in sorted(folder.iterdir())[:count]:
                image = Image.open(path)
                image.draft("RGB", (56, 56))
                images.append(torch.from_numpy(np.array(image.convert("RGB").resize((32, 32)))))
                labels.append(label)
        pixels = torch.stack(images).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return net(pixels), torch.tensor(labels)

    (features, labels), (queries, truth) = read("train", 60), read("val", 60)
    head = linear_probe(features, labels, 10).head
    ours = (head.predict(queries) == truth).double().mean().item()
    assert ours > 0.45
    assert ours > best_of_scikit_learn(head, features, labels, queries, truth) - 0.015


def best_of_scikit_learn(head, features, labels, queries, truth) -> float:
    """The best C for the test images, which is more than an honest choice can have."""
    x, y = ((z - head.mean) / head.std for z in (features, queries))
    fits = (LogisticRegression(C=c, max_iter=200).fit(x.numpy(), labels.numpy()) for c in (1e-2, 1e-1))
    return max(fit.score(y.numpy(), truth.numpy()) for fit in fits)


def test_the_same_seed_gives_the_same_bits_and_another_holds_back_other_images(digits, small):
    again, other = (linear_probe(*digits[:2], 10, decays=SMALL, seed=seed) for seed in (0, 3))
    assert torch.equal(small.head.weight, again.head.weight) and small.as_dict() == again.as_dict()
    assert small.accuracies != other.accuracies


def test_scale_and_offset_of_features_do_not_matter(digits, small):
    features, labels, queries, _ = digits
    scale = 2.0 ** torch.arange(-32, 32)
    scaled = linear_probe(features * scale, labels, 10, decays=SMALL).head
    assert torch.equal(scaled.predict(queries * scale), small.head.predict(queries))
    shifted = linear_probe(features - 100, labels, 10, decays=SMALL).head
    assert (shifted.predict(queries - 100) == small.head.predict(queries)).float().mean() > 0.995


def test_a_feature_that_never_varies_says_nothing(digits, small):
    features, labels, queries, _ = digits
    head = linear_probe(torch.cat([features, torch.full((900, 1), 0.1)], 1), labels, 10, decays=SMALL).head
    assert head.std[-1] == 1 and head.weight[-1].abs().max() < 1e-6
    strange = torch.cat([queries, torch.full((len(queries), 1), 1.1)], 1)
    assert (head.predict(strange) == small.head.predict(queries)).float().mean() > 0.998


def test_permuted_labels_are_chance(digits):
    features, labels, queries, truth = digits
    wrong = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    share = (linear_probe(features, wrong, 10, decays=SMALL).head.predict(queries) == truth).float().mean()
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / len(truth)) ** 0.5


def test_the_chosen_decay_is_trained_on_all_images(digits, small):
    features, labels, *_ = digits
    again = next(softmax_regressions(features, labels, 10, [small.weight_decay]))
    assert torch.equal(small.head.weight, again.weight) and torch.equal(small.head.mean, again.mean)
    torch.testing.assert_close(small.head.mean, features.mean(0))
    assert 170 <= small.selected_on <= 190
    assert small.decays == SMALL and len(small.accuracies) == 3 and 0.9 < max(small.accuracies) <= 1


def test_decays_are_judged_on_images_they_were_not_fitted_on(digits, small):
    features, labels, *_ = digits
    fit, select = stratified_split(labels, 0.2, 0)
    *_, last = softmax_regressions(features[fit], labels[fit], 10, SMALL)
    on_fit, on_select = ((last.predict(features[x]) == labels[x]).double().mean() for x in (fit, select))
    assert on_fit > small.accuracies[-1] == pytest.approx(on_select.item(), abs=1e-12)


def test_a_decay_that_leaves_nothing_is_not_chosen(digits):
    assert linear_probe(*digits[:2], 10, decays=(1e5, 1e-2)).weight_decay == 1e-2


def test_weaker_decays_than_those_that_overfit_are_left_out():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(300, 100, generator=generator), torch.arange(300) % 10  # nothing to learn
    probe = linear_probe(features, labels, 10)
    assert 3 < len(probe.decays) == len(probe.accuracies) < len(DECAYS) and not probe.complete
    assert probe.decays == DECAYS[: len(probe.decays)]


def test_the_choice_is_the_surest_of_those_about_as_good():
    # One standard error of 0.8 on 100 images is 0.04.
    assert choose([(0.8, 2.0), (0.77, 1.0), (0.75, 0.5)], 100) == 1
    assert choose([(0.8, 2.0), (0.77, 1.0), (0.75, 0.5)], 10000) == 0
    assert choose([(1.0, 0.2), (0.99, 0.1), (1.0, 0.15)], 5) == 2


def test_a_choice_on_the_border_says_so(digits):
    def border(*decays) -> bool:
        return linear_probe(*digits[:2], 10, decays=decays).on_border

    assert border(1e5, 10.0) and border(1e-2, 10.0)
    assert not border(1e5, 1e-2, 1e-12) and not border(10.0)


def test_with_one_image_per_class_the_middle_of_the_grid_is_taken(digits):
    features, labels, *_ = digits
    first = torch.stack([(labels == c).nonzero()[0, 0] for c in range(10)])
    probe = linear_probe(features[first], labels[first], 10, decays=SMALL)
    assert (probe.weight_decay, probe.selected_on, probe.on_border, probe.accuracies) == (1e-2, 0, False, ())
    assert torch.equal(probe.head.predict(features[first]), labels[first])
    json.dumps(probe.as_dict(), allow_nan=False)


def test_classes_without_images_are_never_predicted(digits):
    features, labels, queries, _ = digits
    assert linear_probe(features, labels, 12, decays=SMALL).head.predict(queries).max() <= 9


def test_wrong_input_is_named(digits):
    features, labels, *_ = digits
    with pytest.raises(InvalidSetting, match="900 training features with 3 labels"):
        linear_probe(features, labels[:3], 10)
    with pytest.raises(InvalidSetting, match="labels from 0 to 9 where there are 9 classes"):
        linear_probe(features, labels, 9)
    with pytest.raises(InvalidSetting, match="not finite"):
        linear_probe(features / 0, labels, 10)


@pytest.mark.gpu
def test_cuda_learns_the_same(digits, device):
    features, labels, queries, _ = digits
    here, there = (linear_probe(features.to(d), labels.to(d), 10, decays=SMALL).head for d in ("cpu", device))
    assert (here.predict(queries) == there.predict(queries.to(device)).cpu()).float().mean() > 0.99
