"""The perceptual distance against its naive definition, and what it must feel."""

from itertools import pairwise

import pytest
import skimage.data
import torch
from skimage.filters import gaussian
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from losses import InvalidSetting, Reconstruction, TermContext
from losses.features import vgg19
from losses.features.vgg19 import DEFAULT_TAPS, VGG19, feature_distance
from losses.features.weights import he_initialised
from losses.perceptual import Perceptual
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD, patchify
from tests.losses.scenes import gradient_of, objective_of, one_line, photograph, photographs, scene

# Of each tap in torchvision's `vgg19().features`.
POSITION = {"conv1_1": 1, "conv1_2": 3, "conv2_1": 6, "conv2_2": 8, "conv3_1": 11, "conv5_1": 29}
POSITION |= {"pool2": 9, "pool3": 18, "pool4": 27, "features.5": 5, "features.10": 10}
SHARED = "weights/vgg19_features_to_conv3_4.safetensors"


def perceptual(dtype=torch.float32, critic=torch.float32, **options) -> Perceptual:
    options = {"weights": "random", "pool": 1} | options
    return Perceptual(Perceptual.Options(**options), TermContext(dtype=critic)).to(dtype)


def naive(r, taps, weights, cut, pool=1) -> torch.Tensor:
    """Johnson et al. 2016 by torchvision's layers: mean((f - t)^2) per tap, on a window cut by hand."""
    layers = make_layers(cfgs["E"])[: max(POSITION[tap] for tap in taps) + 1].to(r.image.dtype)
    random = he_initialised(VGG19(taps))
    layers.load_state_dict({key.removeprefix("features."): value for key, value in random.items()})
    top, left = (int(u * (cut + 1)) for u in r.shift)
    height, width = r.image.shape[2] - cut, r.image.shape[3] - cut

    def features(image):
        mean, std = (torch.tensor(v).to(image.dtype).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        x, found, stride = (image[:, :, top : top + height, left : left + width] - mean) / std, {}, 1
        for index, layer in enumerate(layers):
            x = F.relu(x) if isinstance(layer, torch.nn.ReLU) else layer(x)
            found[index] = x
            stride *= 2 if isinstance(layer, torch.nn.MaxPool2d) else 1
            if (cell := pool // stride) > 1:
                found[index] = x.unfold(2, cell, cell // 2).unfold(3, cell, cell // 2).mean((-2, -1))
        return [found[POSITION[tap]] for tap in taps]

    image = r.composite if r.over == "hidden" else r.predicted_image
    distances = [((f - t) ** 2).mean() for f, t in zip(features(image), features(r.image), strict=True)]
    return sum(w * d for w, d in zip(weights, distances, strict=True))


@pytest.mark.parametrize(("over", "shift"), [("hidden", (0.3, 0.8)), ("all", (0.99, 0.0))])
@pytest.mark.parametrize(
    ("taps", "weights", "cut"),
    [
        (DEFAULT_TAPS, (1, 1, 1, 1, 1), 3),
        (("conv1_2", "conv2_1"), (0.5, 2), 1),
        (("pool2", "features.5", "conv1_1"), (1, 3, 0.1), 3),
        (("conv1_1",), (1,), 0),
        (("features.10",), (1,), 3),
        (("pool3", "features.10", "conv1_1"), (1, 2, 3), 7),
        (("conv1_2", "conv2_1", "conv1_2"), (1, 2, 3), 1),
        (("conv1_1", "conv2_1"), (0, 1), 1),
        pytest.param(("conv5_1", "pool2", "pool4"), (1, 1, 1), 7, marks=pytest.mark.slow),
    ],
    ids=["default", "weighted", "odd", "one", "before its ReLU", "pool deepest", "twice", "one for nothing", "deep"],
)
def test_value_and_gradient_equal_the_naive_definition(taps, weights, cut, shift, over):
    r = scene(dtype=torch.float64, shift=shift)
    term = perceptual(torch.float64, taps=list(taps), tap_weights=list(weights))
    leaf = r.prediction.clone().requires_grad_()
    expected = naive(r.at(leaf, over), taps, weights, cut)
    expected.backward()
    assert float(term.value(r.at(r.prediction, over))) == pytest.approx(float(expected.detach()), rel=1e-11)
    torch.testing.assert_close(gradient_of(term, r, over), leaf.grad, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("pool", [2, 3, 8])
def test_pooled_value_and_gradient_equal_the_naive_definition(pool):
    r = scene(1, size=(16, 24), dtype=torch.float64, shift=(0.3, 0.8))
    term = perceptual(torch.float64, pool=pool)
    leaf = r.prediction.clone().requires_grad_()
    expected = naive(r.at(leaf, "hidden"), DEFAULT_TAPS, [1] * 5, 3, pool)
    expected.backward()
    assert float(term.value(r.at(r.prediction, "hidden"))) == pytest.approx(float(expected.detach()), rel=1e-11)
    torch.testing.assert_close(gradient_of(term, r, "hidden"), leaf.grad, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("pool", [0, -1, 62])
def test_squares_that_do_not_fit_are_an_error_of_one_line(pool):
    """The network reads 61 of 64 pixels; its pooling grid moves by up to 3."""

    def term(pool):
        return objective_of("perceptual", image_size=(64, 64), perceptual={"weights": "random", "pool": pool})

    term(61)
    with pytest.raises(InvalidSetting) as error:
        term(pool)
    assert f"pool={pool}" in one_line(error)


def test_pooling_forgives_a_texture_that_falls_elsewhere_but_not_a_blur():
    """White noise against other noise of the same statistics, and against its mean."""
    noise, other = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    net = perceptual().net

    def distance_to(image, pool):
        return feature_distance(net, image, noise, [1.0] * 5, pool)

    def moved_over_blurred(pool):
        return float(distance_to(other, pool) / distance_to(noise.mean().expand_as(noise), pool))

    # Of one texture's means over n independent positions, the squared difference falls as 1 / n; a blur's stays.
    assert moved_over_blurred(16) < moved_over_blurred(1) / 10


@pytest.mark.parametrize("side", [8, 16])
def test_the_default_pool_suits_small_images(side):
    torch.manual_seed(0)
    term = Perceptual(Perceptual.Options(weights="random"), TermContext(image_size=(side, side)))
    gradient = gradient_of(term, scene(size=(side, side), patch=4))
    assert gradient.isfinite().all() and gradient.any()


def test_empty_tap_weights_are_ones():
    r = scene(dtype=torch.float64)
    ones = perceptual(torch.float64, tap_weights=[1.0] * 5)
    assert torch.equal(perceptual(torch.float64).value(r), ones.value(r))


def test_the_distance_is_symmetric_when_all_is_judged():
    r = scene(dtype=torch.float64)
    back = Reconstruction(r.true_pixels, r.predicted_image, r.mask, shift=r.shift)
    there = perceptual(torch.float64).value(r.at(r.prediction, "all"))
    assert float(perceptual(torch.float64).value(back.at(back.prediction, "all"))) == pytest.approx(float(there))


@pytest.mark.parametrize("seed", range(3))
def test_in_half_precision_the_value_is_as_exact_as_its_features(seed):
    """One norm per row of a map is rounded to 8 bits, then squared; the sum of rows is wide."""
    net, r = perceptual().net, scene(seed=seed)
    with torch.autocast("cpu", torch.bfloat16):
        found = feature_distance(net, r.predicted_image, r.image, [1.0] * 5)
        features = zip(net(r.predicted_image), net(r.image), strict=True)
        expected = sum(float((f - t).double().square().mean()) for f, t in features)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(expected, rel=2**-8)


def test_how_many_images_go_through_at_a_time_does_not_matter(monkeypatch):
    """5 images of 13 x 21 pixels: one by one, in unequal parts, or all at once."""
    term, r = perceptual(torch.float64), scene(5, size=(16, 24), dtype=torch.float64, shift=(0.3, 0.3))
    monkeypatch.setattr(vgg19, "CHUNK_PIXELS", 10**9)
    value, gradient = term.value(r), gradient_of(term, r)
    for images in (1, 2, 4):
        monkeypatch.setattr(vgg19, "CHUNK_PIXELS", images * 13 * 21)
        torch.testing.assert_close(term.value(r), value, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient_of(term, r), gradient, rtol=1e-9, atol=1e-16)


def test_the_gradient_goes_through_as_often_as_it_is_asked_for():
    r = scene(dtype=torch.float64)
    leaf = r.prediction.clone().requires_grad_()
    value = perceptual(torch.float64).value(r.at(leaf, "hidden"))
    first, again = (torch.autograd.grad(value, leaf, retain_graph=True)[0] for _ in range(2))
    (thrice,) = torch.autograd.grad(3 * value, leaf)
    assert torch.equal(first, again)
    torch.testing.assert_close(thrice, 3 * first, rtol=1e-13, atol=0)


def test_the_image_and_the_prediction_stay_as_they_are():
    r = scene()
    before = r.image.clone(), r.prediction.clone()
    gradient_of(perceptual(), r, "all")
    assert torch.equal(r.image, before[0]) and torch.equal(r.prediction, before[1])


def masked(images, prediction_image, hidden: float = 1.0) -> Reconstruction:
    """A reconstruction of 8-pixel patches whose raw predicted image is given."""
    generator = torch.Generator().manual_seed(0)
    count = images.shape[2] * images.shape[3] // 64
    mask = torch.rand(len(images), count, generator=generator).argsort(1) < round(hidden * count)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return Reconstruction(patchify((prediction_image - mean) / std, 8), images, mask, shift=(0.4, 0.6))


def blurred(image, sigma: float) -> torch.Tensor:
    return torch.from_numpy(gaussian(image.numpy(), sigma=(0, 0, sigma, sigma), mode="reflect"))


@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
@pytest.mark.parametrize("weights", ["random", "bundled", SHARED])
def test_the_more_blurred_the_farther(weights, name, request):
    if weights == SHARED:
        weights = str(request.getfixturevalue("shared") / SHARED)
    term, image = perceptual(weights=weights), photograph(name)
    distances = [float(term.value(masked(image, blurred(image, sigma)))) for sigma in (0.01, 0.5, 1, 2, 4, 8)]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert all(near < far for near, far in pairwise(distances))


@pytest.mark.parametrize("weights", ["random", "bundled", SHARED])
def test_half_precision_points_the_same_way(weights, request):
    """What bfloat16 loses of the critic's gradient is a rounding, on real photographs and a plausible prediction."""
    if weights == SHARED:
        weights = str(request.getfixturevalue("shared") / SHARED)
    images = photographs()
    r = masked(images, blurred(images, 2.0), hidden=0.75)
    full, half = (gradient_of(perceptual(weights=weights, critic=d), r) for d in (torch.float32, torch.bfloat16))
    assert float(F.cosine_similarity(full.flatten(), half.flatten(), dim=0)) > 0.99
    assert float(half.norm() / full.norm()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sigma", [2, 4, 8])
def test_an_exact_first_layer_keeps_the_direction_on_smooth_predictions(sigma, monkeypatch):
    """Cosine of the bundled critic's gradient in bfloat16 with float32's, and where the first layer is rounded too."""
    whole = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    corners = [(top, left) for top in (0, 150, 300) for left in (100, 300)]
    images = torch.stack([whole[:, top : top + 64, left : left + 64] for top, left in corners])
    r = masked(images, blurred(images, sigma), hidden=0.75)

    def gradient(critic):
        return gradient_of(perceptual(weights="bundled", critic=critic), r).flatten()

    full, half = gradient(torch.float32), gradient(torch.bfloat16)
    monkeypatch.setattr(vgg19.ImageConv2d, "forward", torch.nn.Conv2d.forward)
    plain = gradient(torch.bfloat16)
    assert float(F.cosine_similarity(full, half, dim=0)) > 0.88
    assert float(F.cosine_similarity(full, plain, dim=0)) < 0.6


def test_an_outer_autocast_does_not_lower_the_critics_precision():
    r, term = scene(), perceptual()
    with torch.autocast("cpu", torch.bfloat16):
        inside = term.value(r)
    assert torch.equal(inside, term.value(r))


def test_a_photograph_is_nearer_to_itself_than_to_another():
    images, term = photographs(), perceptual()
    others = images.roll(1, 0)
    darker = images * 0.95
    assert float(term.value(masked(images, darker))) < float(term.value(masked(images, others)))


def test_provenance_names_source_and_checksum():
    assert perceptual().provenance()["source"] == "random"
    assert len(perceptual().provenance()["sha256"]) == 64


def test_no_taps_is_an_error_of_one_line():
    with pytest.raises(InvalidSetting) as error:
        perceptual(taps=[])
    assert "losses.perceptual.taps" in one_line(error)


@pytest.mark.parametrize("weights", [[1.0], [1.0] * 6])
def test_tap_weights_that_do_not_fit_are_an_error_of_one_line(weights):
    with pytest.raises(InvalidSetting) as error:
        perceptual(tap_weights=weights)
    message = one_line(error)
    assert "losses.perceptual.tap_weights" in message and str(len(weights)) in message and "5" in message


def test_an_unknown_tap_is_an_error_of_one_line():
    with pytest.raises(InvalidSetting) as error:
        perceptual(taps=["conv1_1", "conv9_1"])
    assert "'conv9_1'" in one_line(error)
