"""Features of whole images: what they are, that each image passes once, and that files are never mixed up."""

import re
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from losses import InvalidSetting, NormalisedPixelHead
from recon.data import create_dataset, evaluation_crop
from recon.model import create_model
from recon.probing.features import ProbedEncoder, cached, encoder_features, extract, key_of, pixel_features
from recon.probing.labelled import central_crops
from recon.training.device import make_fabric
from tests.recon.data.conftest import Pictures

SIZE = (16, 16)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("nano", image_size=16, patch_size=4, depth=3, decoder_depth=1, decoder_width=32).eval()


@pytest.fixture(scope="module")
def fabric():
    return make_fabric("cpu", "fp32")


def test_the_last_layer_is_encode(model):
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        layers = model.encode_layers(images, [1, 2, 3])
        assert torch.equal(layers[-1], model.encode(images))
        assert torch.equal(model.encode_layers(images, [2])[0], layers[1])
        assert not torch.allclose(layers[0], layers[1])


def test_an_earlier_layer_is_that_of_a_shorter_encoder(model):
    shorter = create_model("nano", image_size=16, patch_size=4, depth=2, decoder_depth=1, decoder_width=32)
    shorter.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("blocks.2.")})
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model.encode_layers(images, [2])[0], shorter.encode(images))


def test_features_are_the_class_token_and_the_mean_of_the_patch_tokens(model, fabric):
    images = torch.rand(2, 3, 16, 16)
    found = encoder_features(model, [2, 3], fabric)(images)
    with torch.no_grad():
        tokens = model.encode(images)
    assert list(found) == ["class/2", "class/3", "mean/2", "mean/3"]
    assert torch.equal(found["class/3"], tokens[:, 0])
    torch.testing.assert_close(found["mean/3"], tokens[:, 1:].mean(1), rtol=0, atol=1e-6)


def test_of_several_class_tokens_the_feature_is_their_mean(fabric):
    model = create_model("nano", image_size=16, patch_size=4, decoder_depth=1, class_tokens=3)
    images = torch.rand(2, 3, 16, 16)
    found = encoder_features(model, [4], fabric)(images)
    with torch.no_grad():
        tokens = model.encode(images)
    assert tokens.shape[1] == 3 + 16
    torch.testing.assert_close(found["class/4"], (tokens[:, 0] + tokens[:, 1] + tokens[:, 2]) / 3, rtol=0, atol=1e-6)
    torch.testing.assert_close(found["mean/4"], tokens[:, 3:].mean(1), rtol=0, atol=1e-6)


def test_batches_do_not_change_features(model, fabric):
    source = create_dataset("photos", "val")
    one, many = (
        extract(
            encoder_features(model, [3], fabric), central_crops(source, [4, 0, 9, 2, 7], SIZE, batch, 0), fabric.device
        )
        for batch in (1, 3)
    )
    for name in one:
        torch.testing.assert_close(one[name], many[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("workers", [0, 1])
def test_crops_are_the_evaluation_crops_in_order(workers):
    source = create_dataset("photos", "val")
    found = torch.cat(list(central_crops(source, [3, 1, 2], SIZE, 2, workers)))
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.stack([evaluation_crop(source.read(i)[0], SIZE) for i in (3, 1, 2)]))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(workers):
    with pytest.raises(InvalidSetting, match=re.escape("picture 2: torn; a probe needs every image")):
        list(central_crops(Pictures(4, unreadable=(2,)), range(4), SIZE, 2, workers))


def test_every_image_passes_once(model, fabric):
    seen = []

    def counting(images):
        seen.append(len(images))
        return pixel_features(images)

    extract(counting, central_crops(Pictures(7), range(7), SIZE, 3, 0), fabric.device)
    assert seen == [3, 3, 1]


def test_small_pixels_are_kept_and_large_ones_averaged():
    small, large = torch.rand(2, 3, 16, 24), torch.rand(2, 3, 64, 96)
    assert torch.equal(pixel_features(small)["pixels"], small.flatten(1))
    averaged = F.avg_pool2d(large, (2, 3)).flatten(1)
    torch.testing.assert_close(pixel_features(large)["pixels"], averaged, rtol=0, atol=1e-6)


def test_the_untrained_control_is_the_same_network_with_other_weights(model):
    fresh, again, other = model.untrained(7), model.untrained(7), model.untrained(8)
    for name, value in model.state_dict().items():
        same = torch.equal(value, fresh.state_dict()[name])
        # norms and biases begin as constants, which this model still has
        assert same == (value.unique().numel() <= 1 or "pos_embed" in name), name
        assert torch.equal(fresh.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(fresh.blocks[0].attn.qkv.weight, other.blocks[0].attn.qkv.weight)


def test_the_untrained_control_forgets_everything_learnt(model):
    trained = create_model("nano", image_size=16, patch_size=4, depth=3, decoder_depth=1, decoder_width=32)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1.0)
    fresh, reference = trained.untrained(3).state_dict(), model.untrained(3).state_dict()
    assert all(torch.equal(fresh[name], reference[name]) for name in reference)


def test_runs_of_one_size_share_their_untrained_control_whatever_their_head(model):
    other = create_model(
        "nano", image_size=16, patch_size=4, depth=3, decoder_depth=1, decoder_width=32, head=NormalisedPixelHead()
    )
    plain, drawn = model.untrained(3).state_dict(), other.untrained(3).state_dict()
    assert all(torch.equal(plain[name], drawn[name]) for name in plain)
    assert not torch.equal(other.statistics[0].weight, drawn["statistics.0.weight"])


def test_drawing_the_control_leaves_the_generator_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    model.untrained(0)
    assert torch.rand(()) == expected


def test_features_keep_no_token_in_memory(model, fabric):
    for name, values in encoder_features(model, [2, 3], fabric)(torch.rand(4, 3, 16, 16)).items():
        assert values.untyped_storage().nbytes() == 4 * 192 * 4, name


@pytest.mark.parametrize("change", ["weight", "mean", "eps", "heads"])
def test_whatever_features_depend_on_changes_the_checksum(model, change):
    before = ProbedEncoder("run", "", model).checksum
    other = deepcopy(model)
    assert ProbedEncoder("run", "", other).checksum == before
    if change == "weight":
        other.blocks[1].mlp.fc1.weight.data[0, 0] += 1e-6
    elif change == "mean":
        other.mean += 0.01
    elif change == "eps":
        other.norm.eps = 1e-5
    else:
        other.blocks[0].attn.num_heads = 6
    assert ProbedEncoder("run", "", other).checksum != before


def test_the_decoder_is_no_part_of_the_checksum(model):
    other = deepcopy(model)
    other.decoder_pred.weight.data += 1
    assert ProbedEncoder("run", "", other).checksum == ProbedEncoder("run", "", model).checksum


FACTS = {"network": "a", "data": "b", "layers": [1, 2]}


class Maker:
    def __init__(self, value: float):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return {"train/mean/1": torch.full((3, 2), self.value)}


def test_features_are_made_once_and_come_back_to_the_bit(tmp_path):
    maker = Maker(1 / 3)
    first, second = cached(tmp_path, FACTS, maker), cached(tmp_path, FACTS, maker)
    assert maker.calls == 1
    assert torch.equal(first["train/mean/1"], second["train/mean/1"])


@pytest.mark.parametrize("fact", list(FACTS))
def test_every_fact_is_part_of_the_key(tmp_path, fact):
    cached(tmp_path, FACTS, Maker(1.0))
    found = cached(tmp_path, FACTS | {fact: "another"}, Maker(2.0))
    assert found["train/mean/1"].unique().tolist() == [2.0]


def test_a_file_with_the_features_of_another_key_is_refused_and_left_alone(tmp_path):
    cached(tmp_path, FACTS, Maker(1.0))
    (file,) = tmp_path.iterdir()
    other = FACTS | {"network": "another"}
    taken = file.rename(tmp_path / f"{key_of(other)[:16]}.safetensors")
    content = taken.read_bytes()
    maker = Maker(2.0)
    with pytest.raises(InvalidSetting, match=re.escape(f"{taken} holds the features of another network or data")):
        cached(tmp_path, other, maker)
    assert taken.read_bytes() == content and maker.calls == 0


@pytest.mark.parametrize("damage", [lambda b: b[:40], lambda b: b"", lambda b: b[:-3]])
def test_a_damaged_file_is_named_and_left_alone(tmp_path, damage):
    cached(tmp_path, FACTS, Maker(1.0))
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    before = file.read_bytes()
    with pytest.raises(InvalidSetting, match=re.escape(f"{file} is damaged")):
        cached(tmp_path, FACTS, Maker(2.0))
    assert file.read_bytes() == before


def test_nothing_is_left_where_making_fails(tmp_path):
    def failing():
        raise InvalidSetting("torn")

    with pytest.raises(InvalidSetting, match="torn"):
        cached(tmp_path / "features", FACTS, failing)
    assert not (tmp_path / "features").exists()
