"""The sources of VGG19's weights, and an error of one line if one is missing."""

import hashlib
import urllib.error

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from losses import InvalidSetting
from losses.features import weights
from losses.features.vgg19 import DEFAULT_TAPS, VGG19
from losses.features.weights import BUNDLED, load_vgg19
from tests.losses.scenes import one_line, photographs

BUNDLED_LIMIT = 5 * 2**20


def small() -> VGG19:
    return VGG19(["conv1_2"])


@pytest.fixture
def network():
    """The weights of a small network, and their provenance."""
    net = small()
    source = load_vgg19(net, "random")
    return net.state_dict(), source


def refused(source, net=None) -> str:
    with pytest.raises(InvalidSetting) as error:
        load_vgg19(net or small(), str(source))
    return one_line(error)


# random


def test_random_is_the_same_every_time(network):
    torch.manual_seed(5)
    net = small()
    assert load_vgg19(net, "random") == network[1]
    assert all(torch.equal(net.state_dict()[key], value) for key, value in network[0].items())


def test_random_takes_nothing_from_torchs_generator():
    net = small()
    before = torch.get_rng_state()
    load_vgg19(net, "random")
    assert torch.equal(torch.get_rng_state(), before)


def test_random_is_he_initialised():
    net = VGG19(["conv3_1"])
    load_vgg19(net, "random")
    for layer in net.features:
        if isinstance(layer, torch.nn.Conv2d):
            fan_in = layer.weight[0].numel()
            assert float(layer.weight.std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
            assert not layer.bias.any()


def test_a_deeper_random_network_begins_as_a_shallower_one(network):
    net = VGG19(["conv2_1"])
    load_vgg19(net, "random")
    assert all(torch.equal(net.state_dict()[key], value) for key, value in network[0].items())


# files


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_gives_back_what_was_put_into_it(tmp_path, network, suffix):
    path = tmp_path / f"vgg{suffix}"
    save_file(network[0], path) if suffix == ".safetensors" else torch.save(network[0], path)
    net = small()
    source = load_vgg19(net, str(path))
    assert all(torch.equal(net.state_dict()[key], value) for key, value in network[0].items())
    assert source == network[1] | {"source": str(path)}


def test_the_checksum_does_not_see_weights_that_are_not_in_use(tmp_path, network):
    path = tmp_path / "more.safetensors"
    save_file(network[0] | {"features.5.weight": torch.ones(128, 64, 3, 3), "classifier.0.bias": torch.ones(2)}, path)
    assert load_vgg19(small(), str(path))["sha256"] == network[1]["sha256"]


def test_the_checksum_sees_every_value(tmp_path, network):
    changed = {key: value.clone() for key, value in network[0].items()}
    changed["features.2.bias"][-1] += 1e-6
    save_file(changed, tmp_path / "changed.safetensors")
    assert load_vgg19(small(), str(tmp_path / "changed.safetensors"))["sha256"] != network[1]["sha256"]


class Danger:
    """An object whose unpickling does something."""

    opened = False

    def __reduce__(self):
        return setattr, (Danger, "opened", True)


def test_a_pickle_with_objects_is_refused_and_not_run(tmp_path):
    torch.save({"features.0.weight": Danger()}, tmp_path / "danger.pth")
    assert str(tmp_path / "danger.pth") in refused(tmp_path / "danger.pth")
    assert not Danger.opened


@pytest.mark.parametrize("source", ["no/such/file.pth", "no_such.safetensors", "imagnet", "."])
def test_a_missing_file_is_named_with_the_alternatives(source):
    message = refused(source)
    assert source in message and "imagenet" in message and "bundled" in message


@pytest.mark.parametrize("name", ["torn.safetensors", "torn.pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00"])
def test_a_torn_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in refused(tmp_path / name)


def test_a_wrong_shape_is_named(tmp_path, network):
    save_file(network[0] | {"features.2.weight": torch.zeros(64, 32, 3, 3)}, tmp_path / "narrow.safetensors")
    message = refused(tmp_path / "narrow.safetensors")
    assert "'features.2.weight'" in message and "(64, 32, 3, 3)" in message and "(64, 64, 3, 3)" in message


def test_weights_that_end_too_early_say_where(tmp_path, network):
    save_file(network[0], tmp_path / "short.safetensors")
    message = refused(tmp_path / "short.safetensors", VGG19(["conv1_1", "pool2"]))
    assert "end at conv1_2" in message and "pool2" in message


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"model": {"features.0.weight": torch.zeros(64, 3, 3, 3)}},
        {f"0.{kind}": torch.zeros(1) for kind in ("weight", "bias")},
        {"features.conv1.weight": torch.zeros(64, 3, 3, 3)},
        {f"features.{i}.weight": torch.zeros(64) for i in range(0, 53, 3)},  # vgg19_bn has 53 layers
        {"features.0.weight": 3, "features.0.bias": 3, "features.2.weight": 3, "features.2.bias": 3},
        torch.zeros(3),
        [torch.zeros(3)],
    ],
    ids=["empty", "nested", "no prefix", "other names", "batch norm", "numbers", "a tensor", "a list"],
)
def test_a_file_of_something_else_is_named(tmp_path, content):
    torch.save(content, tmp_path / "else.pth")
    assert "else.pth" in refused(tmp_path / "else.pth")


# imagenet


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def no_download(*args, **kwargs):
    raise AssertionError("must not download")


def publish(monkeypatch, path, content) -> str:
    """Writes weights to `path` and makes them the ones that torchvision would publish; their file's name."""
    torch.save(content, path)
    prefix = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(weights, "IMAGENET_URL", f"https://example.invalid/models/vgg19-{prefix}.pth")
    return f"vgg19-{prefix}.pth"


def test_without_network_imagenet_says_where_to_put_the_file(hub, monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    message = refused("imagenet")
    for part in ("no route to host", "vgg19-dcbb9e9d.pth", weights.IMAGENET_URL, str(hub), "bundled"):
        assert part in message


def test_a_download_is_checked_kept_and_used(hub, monkeypatch, tmp_path, network):
    name = publish(monkeypatch, tmp_path / "published.pth", network[0])
    asked = []

    def download(url, path, hash_prefix, progress):
        asked.append((url, hash_prefix))
        (tmp_path / "published.pth").rename(path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        assert load_vgg19(small(), "imagenet") == network[1] | {"source": "imagenet"}
    assert asked == [(weights.IMAGENET_URL, name[6:14])]
    assert (hub / name).is_file()


def test_a_cached_file_is_used_without_a_download(hub, monkeypatch, tmp_path, network):
    name = publish(monkeypatch, tmp_path / "published.pth", network[0])
    hub.mkdir(parents=True)
    (tmp_path / "published.pth").rename(hub / name)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_download)
    assert load_vgg19(small(), "imagenet")["sha256"] == network[1]["sha256"]


def test_a_cached_file_with_another_hash_is_refused(hub, monkeypatch, network):
    hub.mkdir(parents=True)
    torch.save(network[0], hub / "vgg19-dcbb9e9d.pth")
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_download)
    message = refused("imagenet")
    assert str(hub / "vgg19-dcbb9e9d.pth") in message and "delete" in message


def test_a_hub_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "file"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_download)
    assert str(tmp_path / "file") in refused("imagenet")


def test_one_source_never_stands_in_for_another(hub, monkeypatch, tmp_path):
    """Neither a missing bundled file nor a missing network is answered with other weights."""
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "missing.safetensors")
    assert "bundled" in refused("bundled") and "reinstall" in refused("bundled")


# bundled


def test_bundled_loads_and_reaches_every_default_tap():
    net = VGG19(DEFAULT_TAPS)
    source = load_vgg19(net, "bundled")
    assert source["source"] == "bundled" and len(source["sha256"]) == 64
    assert DEFAULT_TAPS[-1] == "conv3_1"
    assert all(layer.weight.any() for layer in net.features if isinstance(layer, torch.nn.Conv2d))


def test_bundled_is_small_and_half_precision():
    assert BUNDLED.is_file() and BUNDLED.stat().st_size <= BUNDLED_LIMIT
    with safe_open(BUNDLED, "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118


def test_bundled_says_how_it_was_trained():
    with safe_open(BUNDLED, "pt") as file:
        assert file.metadata()


def test_bundled_relus_have_a_mean_of_about_one_on_photographs():
    net = VGG19(DEFAULT_TAPS)
    load_vgg19(net, "bundled")
    means = [float(feature.mean()) for feature in net(photographs((128, 128)))]
    assert all(0.5 < mean < 2 for mean in means), means
