"""Networks whose features sets of images are compared in: torchvision's and timm's own, and what cannot be loaded."""

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from losses import InvalidSetting
from losses.features.vgg19 import VGG19
from losses.features.weights import load_lpips, load_vgg19, same_network
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD
from recon.evaluation.evaluator import columns_of, load_suite
from recon.metrics.base import Undefined
from recon.metrics.feature_networks import TimmFeatures, TrunkFeatures, load_features
from recon.metrics.realism import TITLES
from recon.study_config import FeatureSettings, check_measuring
from tests.helpers.small_runs import measuring
from tests.losses.scenes import photographs
from tests.recon.metrics.scenes import BUILDERS, untrained

VIT = "test_vit"  # timm's own for tests: 0.4 million parameters, images of 160 pixels
NAMES = {"alexnet": "alex", "squeezenet": "squeeze"}


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A timm model of 224 pixels, and its file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(VIT, img_size=224).eval()
    path = tmp_path_factory.mktemp("timm") / "vit.safetensors"
    save_file(net.state_dict(), path)
    return net, str(path)


@pytest.mark.parametrize(("name", "width"), [("alexnet", 256), ("squeezenet", 512)])
def test_torchvision_s_networks_give_their_last_convolution(name, width, random_trunks):
    net = load_features(name, str(random_trunks[NAMES[name]]), "conv3_1")
    theirs = untrained(BUILDERS[NAMES[name]]).eval()
    layers = theirs[:12] if name == "alexnet" else theirs  # without the last pooling
    images = photographs()
    x = torchvision.transforms.functional.normalize(images, IMAGENET_MEAN, IMAGENET_STD)
    with torch.no_grad():
        found = layers(x).mean((2, 3))
    assert found.shape == (4, width) and found.min() >= 0
    torch.testing.assert_close(net(images), found, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in net.parameters()) and not net.train().net.training


def test_a_timm_model_gives_the_features_before_its_classifier(vit):
    net, images = load_features(f"timm:{VIT}", vit[1], "conv3_1"), photographs((160, 160))
    same_size = timm.create_model(VIT, img_size=160, num_classes=0).eval()
    same_size.load_state_dict(
        timm.models.vision_transformer.checkpoint_filter_fn(dict(vit[0].state_dict()), same_size), strict=False
    )
    x = torchvision.transforms.functional.normalize(images, *(same_size.pretrained_cfg[k] for k in ("mean", "std")))
    with torch.no_grad():
        torch.testing.assert_close(net(images), same_size(x), rtol=1e-5, atol=1e-6)
    assert net.title == VIT and net(images[..., :32, :48]).shape == (4, 64)  # resized


def test_every_image_has_its_own_features(vit):
    net, images = load_features(f"timm:{VIT}", vit[1], "conv3_1"), photographs()
    alone = torch.cat([net(images[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(net(images), alone, rtol=1e-5, atol=1e-6)


def test_images_below_what_poolings_need_have_no_features(random_trunks):
    net = TrunkFeatures("alexnet", str(random_trunks["alex"]))
    assert net(torch.rand(1, 3, 31, 31)).shape == (1, 256)
    with pytest.raises(Undefined, match="below 31 pixels"):
        net(torch.rand(1, 3, 30, 40))


def test_what_cannot_be_loaded_is_one_line_that_names_it(vit, tmp_path, monkeypatch, random_trunks):
    def offline(*args, **kwargs):
        raise OSError("Network is unreachable\nand more")

    def refused(network, weights) -> str:
        with pytest.raises(InvalidSetting) as error:
            load_features(network, weights, "conv3_1")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert refused("timm:test_vitt", None).endswith("timm:test_vitt: no model of timm; did you mean 'test_vit'?")
    assert refused(f"timm:{VIT}", "nowhere.pth") == f"no weights of {VIT} at features.weights=nowhere.pth"
    assert "is no file of test_resnet: conv1" in refused("timm:test_resnet", vit[1])
    assert "no AlexNet weights at nowhere" in refused("alexnet", "nowhere")
    assert "holds no SqueezeNet: features.0.weight" in refused("squeezenet", str(random_trunks["alex"]))
    save_file(vit[0].state_dict() | {"norm.weight": torch.ones(65)}, tmp_path / "wide.safetensors")
    assert f"does not fit {VIT}: " in refused(f"timm:{VIT}", str(tmp_path / "wide.safetensors"))
    half = {key: value for key, value in vit[0].state_dict().items() if "blocks.1" not in key}
    save_file(half, tmp_path / "half.safetensors")
    assert f"is no file of {VIT}: blocks.1" in refused(f"timm:{VIT}", str(tmp_path / "half.safetensors"))
    monkeypatch.setattr(timm, "create_model", offline)
    assert "(Network is unreachable); give their file: features.weights=FILE" in refused(f"timm:{VIT}", None)


def test_a_network_that_is_not_there_leaves_its_columns_empty_and_the_others_whole(vit):
    suite = load_suite(measuring(features=FeatureSettings("alexnet", "nowhere")))
    assert suite.missing.keys() == {"lpips", *TITLES} and suite.features is None
    assert {"vgg19", "hallucination", "masked_psnr"} <= suite.metrics.keys()
    columns = {c.name: c for c in columns_of(measuring(features=FeatureSettings(f"timm:{VIT}", vit[1])), bound=False)}
    assert [columns[name].title for name in TITLES] == [f"{title}-{VIT}" for title in TITLES.values()]
    assert all(vit[1] in columns[name].description for name in TITLES)
    with pytest.raises(InvalidSetting, match=r"features.network=alexnt: choose .*did you mean 'alexnet'"):
        check_measuring(measuring(features=FeatureSettings("alexnt")))


def test_a_network_is_known_whichever_of_its_layers_are_in_use(random_trunks, tmp_path):
    """By another tap, from a copy, in LPIPS or by itself; other weights or another network are another."""
    alex, squeeze = (str(random_trunks[net]) for net in ("alex", "squeeze"))
    shallow, deep, other = (load_vgg19(VGG19([tap]), source) for tap, source in VGGS)
    assert shallow["sha256"] != deep["sha256"] and same_network(shallow, deep) and not same_network(deep, other)
    judge, trained_on = TrunkFeatures("alexnet", alex).provenance, load_lpips("alex", alex, "", spatial=False)[1]
    assert same_network(judge, trained_on) and judge["sha256"] == trained_on["sha256"]
    assert not same_network(judge, TrunkFeatures("squeezenet", squeeze).provenance)
    earlier = {key: value for key, value in trained_on.items() if key != "first_layer"}  # of a run made before
    assert same_network(judge, earlier) and not same_network(deep, earlier) and not same_network(judge, {})


VGGS = [("conv1_2", "bundled"), ("conv3_1", "bundled"), ("conv3_1", "random")]


def test_the_file_of_a_timm_model_is_its_identity(vit):
    a, b = (TimmFeatures(VIT, vit[1]).provenance for _ in range(2))
    assert a == b and a["source"] == vit[1]
