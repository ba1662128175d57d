"""The linear probe: known optima, torch's and scikit-learn's classifiers, and what must not matter."""

import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from losses import InvalidSetting
from recon.metrics.deep import PooledFeatures
from recon.probing import linear
from recon.probing.labelled import stratified_split
from recon.probing.linear import Grid, LinearProbe, batches, choose, linear_probe, moments, train

SMALL = Grid((0.01, 0.1, 1.0), (0.0, 1e-2))


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
    return linear_probe(*digits[:2], 10, grid=SMALL)


@pytest.fixture(scope="module")
def other(digits) -> LinearProbe:
    """The same with seed 3."""
    return linear_probe(*digits[:2], 10, grid=SMALL, seed=3)


@pytest.fixture
def short(monkeypatch):
    """A tenth of the steps, where it is not asked how well the classes are told apart."""
    monkeypatch.setattr(linear, "MIN_STEPS", 50)
    monkeypatch.setattr(linear, "EPOCHS", 5)


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
    head = linear_probe(features, labels, 2)
    fitted = head.head
    direction = ((fitted.weight[:, 1, 0] - fitted.weight[:, 0, 0]) / fitted.std).double().numpy()
    offset = (fitted.bias[1, 0] - fitted.bias[0, 0]).item() - direction @ fitted.mean.double().numpy()
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
    head = linear_probe(features[:1500], labels[:1500], 3)
    assert torch.equal(head.predict(features), labels) and len(labels) > 2500


def test_each_head_is_torch_s_sgd_alone(digits, monkeypatch):
    monkeypatch.setattr(linear, "MIN_STEPS", 40)
    monkeypatch.setattr(linear, "EPOCHS", 2)
    features, labels, *_ = digits
    rows = torch.arange(100, 900)
    pairs = [(0.003, 0.1), (0.1, 0.0), (0.3, 0.01)]
    together = train(features, labels, rows, 10, pairs, seed=5)
    mean, std = moments(features, rows)
    for i, (rate, decay) in enumerate(pairs):
        layer = torch.nn.Linear(64, 10)
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
        groups = [{"params": [layer.weight], "weight_decay": decay}, {"params": [layer.bias]}]
        optimiser = torch.optim.SGD(groups, lr=rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 40)
        for _, batch in zip(range(40), batches(rows, 5), strict=False):
            optimiser.zero_grad()
            x = (features[batch] - mean) / std
            torch.nn.functional.cross_entropy(layer(x), labels[batch]).backward()
            optimiser.step()
            schedule.step()
        torch.testing.assert_close(together.weight[:, :, i], layer.weight.T, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(together.bias[:, i], layer.bias, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("decay", [1e-2, 1e-1])
def test_where_it_converges_it_is_scikit_learn_s_optimum(digits, decay):
    features, labels, queries, _ = digits
    head = linear_probe(features, labels, 10, grid=Grid((0.3,), (decay,)))
    standardise = head.head.standardised
    theirs = LogisticRegression(C=1 / (decay * len(labels)), tol=1e-8, max_iter=1000)
    theirs.fit(standardise(features).numpy(), labels.numpy())
    coefficients = torch.from_numpy(theirs.coef_.T).float()
    difference = (head.head.weight[..., 0] - coefficients).norm() / coefficients.norm()
    assert difference < 0.01
    assert (head.predict(queries).numpy() == theirs.predict(standardise(queries).numpy())).mean() > 0.995


def test_digits_are_read_as_well_as_by_scikit_learn_at_its_best(digits):
    features, labels, queries, truth = digits
    head = linear_probe(features, labels, 10)
    ours = (head.predict(queries) == truth).double().mean().item()
    assert ours > best_of_scikit_learn(head, features, labels, queries, truth) - 0.005


def test_features_of_real_images_are_read_as_well_as_by_scikit_learn(shared):
    net, root = PooledFeatures(), shared / "data" / "imagenette"

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
    head = linear_probe(features, labels, 10)
    ours = (head.predict(queries) == truth).double().mean().item()
    assert ours > 0.45
    assert ours > best_of_scikit_learn(head, features, labels, queries, truth) - 0.015


def best_of_scikit_learn(head, features, labels, queries, truth) -> float:
    """The best C for the test images, which is more than an honest choice can have."""
    x, y = (head.head.standardised(z).numpy() for z in (features, queries))
    fits = (LogisticRegression(C=c, max_iter=200).fit(x, labels.numpy()) for c in (1e-2, 1e-1))
    return max(fit.score(y, truth.numpy()) for fit in fits)


def test_the_same_seed_gives_the_same_bits(digits, small, other):
    again = linear_probe(*digits[:2], 10, grid=SMALL)
    assert torch.equal(small.head.weight, again.head.weight) and small.as_dict() == again.as_dict()
    assert not torch.equal(small.head.weight, other.head.weight) and small.accuracies != other.accuracies


def test_scale_and_offset_of_features_do_not_matter(digits, small):
    features, labels, queries, _ = digits
    scale = 2.0 ** torch.arange(-32, 32)
    scaled = linear_probe(features * scale, labels, 10, grid=SMALL)
    assert torch.equal(scaled.predict(queries * scale), small.predict(queries))
    shifted = linear_probe(features - 100, labels, 10, grid=SMALL)
    assert (shifted.predict(queries - 100) == small.predict(queries)).float().mean() > 0.995


def test_a_feature_that_never_varies_says_nothing(digits, small):
    features, labels, queries, _ = digits
    constant = torch.full((900, 1), 0.1)
    head = linear_probe(torch.cat([features, constant], 1), labels, 10, grid=SMALL)
    assert head.head.std[-1] == 1 and torch.equal(head.head.weight[-1, :, 0], torch.zeros(10))
    assert torch.equal(
        head.predict(torch.cat([queries, torch.full((len(queries), 1), 1e6)], 1)),
        small.predict(queries),
    )


def test_permuted_labels_are_chance(digits, short):
    features, labels, queries, truth = digits
    wrong = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    share = (linear_probe(features, wrong, 10, grid=SMALL).predict(queries) == truth).float().mean()
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / len(truth)) ** 0.5


def test_the_chosen_setting_is_trained_on_all_images(digits, other):
    features, labels, *_ = digits
    again = train(features, labels, torch.arange(900), 10, [(other.learning_rate, other.weight_decay)], 3)
    assert torch.equal(other.head.weight, again.weight) and torch.equal(other.head.mean, again.mean)
    torch.testing.assert_close(other.head.mean, features.mean(0))
    assert 170 <= other.selected_on <= 190
    assert np.shape(other.accuracies) == (3, 2) and 0.9 < max(map(max, other.accuracies)) <= 1


def test_settings_are_judged_on_images_they_were_not_fitted_on(digits, other):
    features, labels, *_ = digits
    fit, select = stratified_split(labels, 0.2, 3)
    last = train(features, labels, fit, 10, [(1.0, 0.0)], 3)
    on_fit, on_select = (
        (last.logits(features[x])[..., 0].argmax(1) == labels[x]).double().mean() for x in (fit, select)
    )
    judged = other.accuracies[2][0]
    assert on_fit == 1 > judged == pytest.approx(on_select.item(), abs=1.5 / len(select))


def test_bad_settings_are_not_chosen(digits, short):
    features, labels, *_ = digits
    head = linear_probe(features, labels, 10, grid=Grid((1e-7, 0.1), (1e-3, 5.0)))
    assert (head.learning_rate, head.weight_decay) == (0.1, 1e-3)


def test_the_choice_is_the_surest_of_those_about_as_good():
    # One standard error of 0.8 on 100 images is 0.04.
    assert choose([0.8, 0.77, 0.75], [2.0, 1.0, 0.5], 100) == 1
    assert choose([0.8, 0.77, 0.75], [2.0, 1.0, 0.5], 10000) == 0
    assert choose([1.0, 0.99, 1.0], [0.2, 0.1, 0.15], 5) == 2


def test_a_choice_on_the_border_says_so(digits, short):
    features, labels, *_ = digits

    def border(rates, decays):
        return linear_probe(features, labels, 10, grid=Grid(rates, decays)).on_border

    assert border((1e-7, 1e-6), (0.0, 1.0)) == ("learning_rate",)
    assert border((1e-6, 0.1, 10.0), (1e-4, 0.2)) == ("weight_decay",)
    assert border((0.1,), (1e-3,)) == border((0.1,), (0.0, 1.0)) == ()


def test_with_one_image_per_class_the_middle_of_the_grid_is_taken(digits):
    features, labels, *_ = digits
    first = torch.stack([(labels == c).nonzero()[0, 0] for c in range(10)])
    head = linear_probe(features[first], labels[first], 10, grid=SMALL)
    assert (head.learning_rate, head.weight_decay, head.selected_on, head.on_border) == (0.1, 1e-2, 0, ())
    assert all(math.isnan(value) for row in head.accuracies for value in row)
    assert torch.equal(head.predict(features[first]), labels[first])
    assert json.loads(json.dumps(head.as_dict(), allow_nan=False))["accuracies"] is None


def test_classes_without_images_are_never_predicted(digits, short):
    features, labels, queries, _ = digits
    assert linear_probe(features, labels, 12, grid=SMALL).predict(queries).max() <= 9


@pytest.mark.parametrize(
    ("rates", "decays", "message"),
    [
        ((), (0.0,), "learning rates"),
        ((0.1, 0.01), (0.0,), "ascending"),
        ((0.1,), (0.1, 0.1), "weight decays"),
        ((0.0, 0.1), (0.0,), "above 0"),
        ((0.1,), (-0.1,), "not below"),
        ((10.0,), (0.3,), "diverges"),
        ((math.inf,), (0.3,), "learning rates"),
    ],
)
def test_a_grid_that_cannot_be_trained_is_named(rates, decays, message):
    with pytest.raises(InvalidSetting, match=message):
        Grid(rates, decays)


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
    here, there = (linear_probe(features.to(d), labels.to(d), 10, grid=SMALL) for d in ("cpu", device))
    assert (here.predict(queries) == there.predict(queries.to(device)).cpu()).float().mean() > 0.99
