"""LPIPS against the package called directly; VGG19's distance against the perceptual loss."""

import hashlib
import math
import urllib.error
from types import SimpleNamespace

import lpips
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from skimage.measure import block_reduce

from losses.errors import InvalidSetting
from losses.features.distance import feature_distance
from losses.features.vgg19 import DEFAULT_TAPS, VGG19
from losses.features.weights import load_vgg19
from recon.metrics import chunks, deep
from recon.metrics.deep import (
    SMALLEST,
    FeatureDistance,
    Lpips,
    PooledFeatures,
    feature_distance_metric,
    lpips_metric,
)
from recon.metrics.pair import Pair
from recon.metrics.passport import Undefined
from tests.losses.scenes import one_line, photographs

NETS = ["alex", "squeeze"]
BUILDERS = {"alex": "alexnet", "squeeze": "squeezenet1_1"}
FILES = {"alex": "alexnet_features.safetensors", "squeeze": "squeezenet1_1_features.safetensors"}


@pytest.fixture(scope="module")
def random_trunks(tmp_path_factory):
    """A file of random weights for each trunk."""
    folder, files = tmp_path_factory.mktemp("trunks"), {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for net, builder in BUILDERS.items():
            features = getattr(torchvision.models, builder)(weights=None).features
            files[net] = folder / f"{net}.safetensors"
            save_file({f"features.{key}": value for key, value in features.state_dict().items()}, files[net])
    return files


@pytest.fixture(params=["random", "shared"])
def trunks(request, random_trunks):
    """Files of random trunks, and of torchvision's where they are to be had."""
    if request.param == "random":
        return random_trunks
    return {net: request.getfixturevalue("shared") / "weights" / name for net, name in FILES.items()}


@pytest.fixture(scope="module")
def squeeze(random_trunks):
    return Lpips("squeeze", str(random_trunks["squeeze"]))


@pytest.fixture(scope="module")
def vgg19():
    return FeatureDistance()


@pytest.fixture(params=["squeeze", "vgg19"])
def net(request):
    return request.getfixturevalue(request.param)


def package(net: str, file, **settings) -> lpips.LPIPS:
    """The package's own network, on a trunk that torchvision would hand it."""
    features = getattr(torchvision.models, BUILDERS[net])(weights=None).features
    features.load_state_dict({key.removeprefix("features."): value for key, value in load_file(file).items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            lpips.pretrained_networks.tv, BUILDERS[net], lambda pretrained: SimpleNamespace(features=features)
        )
        return lpips.LPIPS(net=net, verbose=False, **settings)


def noisy(truth: torch.Tensor, deviation: float) -> torch.Tensor:
    return (truth + deviation * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def blurred(truth: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(gaussian_filter(truth.numpy(), (0, 0, sigma, sigma)))


def everywhere(images: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(images), 1, *images.shape[2:], dtype=torch.bool)


def hidden_in(images: torch.Tensor, share: float = 0.6) -> torch.Tensor:
    """(B, 1, H, W) bool, pixel by pixel."""
    shape = (len(images), 1, *images.shape[2:])
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share


def refused(*arguments) -> str:
    with pytest.raises(InvalidSetting) as error:
        Lpips(*arguments)
    return one_line(error)


# LPIPS and the package


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_lpips_is_the_package_s_map_averaged_over_hidden_pixels(name, trunks):
    truth = photographs((64, 80))
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    spatial = package(name, trunks[name], spatial=True)(image, truth, normalize=True)
    found = Lpips(name, str(trunks[name]))(image, truth, hidden)
    expected = torch.stack([values[chosen].mean() for values, chosen in zip(spatial, hidden, strict=True)])
    assert found.shape == (4,) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_with_everything_hidden_lpips_is_near_the_package_s_plain_value(name, trunks):
    """The package averages each layer before it is upsampled: bilinear weights at the border make the difference."""
    truth = photographs((128, 128))
    image = noisy(truth, 0.1)
    plain = package(name, trunks[name])(image, truth, normalize=True).flatten()
    found = Lpips(name, str(trunks[name]))(image, truth, everywhere(truth))
    torch.testing.assert_close(found, plain, rtol=5e-4, atol=0)


@pytest.mark.parametrize("name", NETS)
def test_the_smallest_image_is_what_the_package_can_pool(name, random_trunks):
    net, size = Lpips(name, str(random_trunks[name])), SMALLEST[name]
    images = torch.rand(2, 1, 3, size, size + 3)
    assert net(*images, everywhere(images[0])).isfinite().all()
    images = images[..., 1:, :]
    with pytest.raises(Undefined, match=f"below {size} pixels"):
        net(*images, everywhere(images[0]))
    with pytest.raises(RuntimeError, match="too small"):
        package(name, random_trunks[name])(*images)


def test_lpips_never_wakes_up(squeeze):
    parent = torch.nn.Sequential(squeeze).train()
    assert parent.training and not any(module.training for module in squeeze.modules())
    assert not any(parameter.requires_grad for parameter in squeeze.parameters())


def test_lpips_takes_nothing_from_torchs_generator(random_trunks):
    before = torch.get_rng_state()
    Lpips("squeeze", str(random_trunks["squeeze"]))
    assert torch.equal(torch.get_rng_state(), before)


# Where the trunk comes from


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub folder without files and without a network."""

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "hub" / "checkpoints"


def publish(monkeypatch, path, file) -> str:
    """Writes a trunk, with a classifier, as torchvision would publish it; its file's name."""
    torch.save(load_file(file) | {"classifier.1.bias": torch.zeros(7)}, path)
    prefix = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(deep.TRUNKS, "squeeze", f"https://example.invalid/models/squeezenet1_1-{prefix}.pth")
    return f"squeezenet1_1-{prefix}.pth"


@pytest.mark.parametrize("name", NETS)
def test_without_network_lpips_says_where_to_put_the_file(name, hub):
    message = refused(name)
    for part in ("no route to host", deep.TRUNKS[name], str(hub)):
        assert part in message


def test_a_download_is_checked_kept_and_used(hub, monkeypatch, tmp_path, random_trunks, squeeze):
    name = publish(monkeypatch, tmp_path / "published.pth", random_trunks["squeeze"])
    asked = []

    def download(url, path, hash_prefix, progress):
        asked.append((url, hash_prefix))
        (tmp_path / "published.pth").rename(path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        found = Lpips("squeeze").provenance()
        assert found == {"source": "imagenet", "sha256": squeeze.provenance()["sha256"]}
    assert asked == [(deep.TRUNKS["squeeze"], name[-12:-4])] and (hub / name).is_file()


def test_a_cached_file_with_another_hash_is_refused(hub):
    hub.mkdir(parents=True)
    path = hub / "squeezenet1_1-b8a52dc0.pth"
    path.write_bytes(b"not what it says")
    message = refused("squeeze")
    assert str(path) in message and "delete" in message


def test_a_file_gives_its_own_provenance(random_trunks, squeeze):
    assert squeeze.provenance()["source"] == str(random_trunks["squeeze"])
    assert len(squeeze.provenance()["sha256"]) == 64


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
    message = refused("alex", str(tmp_path / "none.safetensors"))
    assert str(tmp_path / "none.safetensors") in message and deep.TRUNKS["alex"] in message


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_a_torn_file_is_named_as_what_it_should_be(tmp_path, suffix, content):
    path = tmp_path / f"torn{suffix}"
    path.write_bytes(content)
    message = refused("alex", str(path))
    assert str(path) in message and "LPIPS" in message and "VGG19" not in message


def test_a_file_of_another_network_is_refused(random_trunks, tmp_path):
    assert "features.0.weight" in refused("alex", str(random_trunks["squeeze"]))
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    assert "list.pth" in refused("squeeze", str(tmp_path / "list.pth"))


def test_an_unknown_network_is_refused():
    message = refused("vgg")
    assert "'vgg'" in message and "alex" in message and "squeeze" in message


# VGG19's distance


@pytest.mark.parametrize("taps", [DEFAULT_TAPS, ["pool2", "conv1_1"]])
def test_with_everything_hidden_it_is_the_perceptual_loss_image_by_image(taps):
    truth = photographs((64, 80))
    image, net = noisy(truth, 0.1), VGG19(taps)
    load_vgg19(net, "bundled")
    expected = [feature_distance(net, image[i : i + 1], truth[i : i + 1], [1] * len(taps)) for i in range(4)]
    found = FeatureDistance("bundled", taps)(image, truth, everywhere(truth))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("tap", "stride"), [("conv1_2", 1), ("pool1", 2), ("conv3_1", 4)])
def test_a_feature_counts_by_the_share_of_its_pixels_that_is_hidden(tap, stride):
    truth = photographs((66, 83))[:1]
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    net = FeatureDistance("bundled", [tap])
    squares = (net.net(image)[0] - net.net(truth)[0]).square().mean(1)[0].numpy()
    rows, columns = squares.shape
    inside = hidden[0, 0, : rows * stride, : columns * stride].numpy().astype(float)
    expected = np.average(squares, weights=block_reduce(inside, (stride, stride), np.mean))
    assert net(image, truth, hidden).item() == pytest.approx(expected, rel=1e-5)


def test_pooled_features_are_the_mean_over_positions(monkeypatch):
    images, net = photographs(), PooledFeatures("bundled", "conv2_1")
    expected = net.net(images)[0].mean((2, 3))
    assert expected.shape == (4, 128)
    for few in (1, 3 * 64 * 64, 4 * 64 * 64):
        monkeypatch.setattr(chunks, "CHUNK_PIXELS", few)
        torch.testing.assert_close(net(images), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net(images.double()), expected, rtol=1e-5, atol=1e-6)


def test_images_without_a_pixel_to_pool_have_no_value(vgg19):
    small = torch.rand(1, 3, 3, 40)
    for values in (lambda: vgg19(small, small, everywhere(small)), lambda: PooledFeatures()(small)):
        with pytest.raises(Undefined, match="below 4 pixels"):
            values()


def test_every_network_says_where_its_weights_are_from(vgg19):
    expected = load_vgg19(VGG19(DEFAULT_TAPS), "bundled")
    assert vgg19.provenance() == expected and PooledFeatures().provenance() == expected
    assert FeatureDistance("random").provenance()["source"] == "random"
    assert not any(p.requires_grad for net in (vgg19, PooledFeatures()) for p in net.parameters())


# Laws of both distances


def test_the_truth_is_exactly_zero(net):
    truth = photographs()
    assert torch.equal(net(truth, truth, hidden_in(truth)), torch.zeros(4))


def test_image_and_truth_may_change_places(net):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    torch.testing.assert_close(net(image, truth, hidden), net(truth, image, hidden), rtol=1e-6, atol=0)


def test_every_image_is_judged_alone(net, monkeypatch):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    alone = torch.cat([net(image[i : i + 1], truth[i : i + 1], hidden[i : i + 1]) for i in range(4)])
    for few in (1, 3 * 64 * 64, 4 * 64 * 64):
        monkeypatch.setattr(chunks, "CHUNK_PIXELS", few)
        torch.testing.assert_close(net(image, truth, hidden), alone, rtol=1e-5, atol=0)


def test_single_precision_is_near_double(net):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    single = net(image, truth, hidden)
    assert torch.equal(net(image.double(), truth.double(), hidden), single)
    double = net.double()(image.double(), truth.double(), hidden)
    net.float()
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)


def test_an_image_without_a_value_leaves_the_others_theirs(net):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    expected = net(image, truth, hidden)[2:]
    image[0, 1, 30, 40], hidden[1] = math.nan, False
    value = net(image, truth, hidden)
    assert value[:2].isnan().all()
    torch.testing.assert_close(value[2:], expected, rtol=1e-5, atol=0)


def test_flat_and_black_images_have_a_value(net):
    black, white = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    assert net(black, black, everywhere(black)).item() == 0 < net(black, white, everywhere(black)).item() < math.inf


@pytest.mark.parametrize("degrade", [blurred, noisy])
def test_more_blur_and_more_noise_are_worse(net, degrade):
    truth = photographs()
    amounts = (0.5, 1, 2, 4) if degrade is blurred else (0.01, 0.03, 0.1, 0.3)
    values = torch.stack(
        [net(image, truth, hidden_in(truth)) for image in (truth, *(degrade(truth, a) for a in amounts))]
    )
    assert (values.diff(dim=0) > 0).all(), values


def test_hiding_what_is_wrong_is_worse_than_hiding_what_is_right(net):
    truth = photographs()
    image, hidden = truth.clone(), torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    image[..., :32], hidden[..., :32] = noisy(truth, 0.2)[..., :32], True
    assert (net(image, truth, hidden) > net(image, truth, everywhere(truth))).all()
    assert (net(image, truth, everywhere(truth)) > net(image, truth, ~hidden)).all()


def test_the_passports_lead_to_the_network_and_to_hidden_patches_alone(squeeze, vgg19):
    truth = photographs()
    mask = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) < 0.75
    image = noisy(truth, 0.1)
    pair = Pair(image, truth, mask)
    repainted = Pair(torch.where(pair.hidden, image, 1 - image), truth, mask)
    for metric, net, name in (
        (lpips_metric(squeeze), squeeze, "lpips"),
        (feature_distance_metric(vgg19), vgg19, "vgg19"),
    ):
        assert (metric.name, metric.better, metric.paired) == (name, "lower", True)
        assert torch.equal(metric(pair), net(pair.image, truth, pair.hidden))
        assert torch.equal(metric(pair), metric(repainted))
