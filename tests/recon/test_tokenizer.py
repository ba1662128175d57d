"""`python -m recon.tokenizer`: files of what was fitted, runs that take them, and what cannot be used."""

import json

import pytest
import torch
from safetensors.torch import load_file

from losses import InvalidSetting
from losses.tensor_files import read as read_tensors
from losses.tensor_files import to_bytes
from recon.loaded_run import open_run
from recon.tokenizer import FittedData, PatchSize, TokenizerSettings, fit_tokenizer
from tests.helpers.small_runs import PHOTOS, trained
from tests.recon.training.conftest import pretrain, resumed

KINDS = ("vq", "kmeans", "colours", "pca")


def fitted(out, kind, data="photos", size=16, patch=4, codes=16, **changes):
    settings = TokenizerSettings(
        *(str(out), kind, codes), steps=4, images=48, device="cpu", data=FittedData(data, None, size), **changes
    )
    settings.model = PatchSize(patch)
    assert fit_tokenizer(settings) == 0
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def files(place):
    return {kind: fitted(place / f"{kind}.safetensors", kind) for kind in KINDS}


def words(kind, file):
    key = "losses.pca.basis" if kind == "pca" else "losses.tokens.tokenizer"
    return [f"loss={'pca' if kind == 'pca' else 'tokens'}", f"{key}={file}"]


def tensors(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_has_what_the_file_has_and_goes_on_without_it(kind, files, place, tmp_path):
    file = tmp_path / "moved.safetensors"
    file.write_bytes(files[kind].read_bytes())
    folder = trained(tmp_path, "run", *words(kind, file))
    there = {f"target.{name}": tensor for name, tensor in load_file(file).items()}
    ours = tensors(folder)
    assert there and all(torch.equal(ours[name], tensor) for name, tensor in there.items())
    file.unlink()
    images, mask = torch.rand(2, 3, 16, 16), torch.arange(16).expand(2, -1) < 12
    assert open_run(folder).model(images, mask=mask).composite.isfinite().all()
    resumed(tmp_path, "run")


@pytest.mark.parametrize("kind", ["vq", "pca"])
def test_a_child_takes_over_what_its_parent_has(kind, files, tmp_path):
    parent = trained(tmp_path, "parent", *words(kind, files[kind]))
    loss, _ = words(kind, files[kind])
    kept = ["losses.tokens.tokenizer=vq", "losses.tokens.codes=16"] if kind == "vq" else []
    child = trained(tmp_path, "child", loss, *kept, f"init={parent}")
    names = [name for name in tensors(parent) if name.startswith("target.")]
    assert names and all(torch.equal(tensors(child)[name], tensors(parent)[name]) for name in names)
    with pytest.raises(InvalidSetting, match="init_decoder=new"):
        pretrain(tmp_path, *PHOTOS, "train.steps=1", "name=both", *words(kind, files[kind]), f"init={parent}")


def test_a_vq_run_resumes_with_its_file_named_again(files, tmp_path):
    folder = trained(tmp_path, "run", *words("vq", files["vq"]))
    assert pretrain(tmp_path, "name=run", "resume=true", *words("vq", files["vq"])) == 0
    assert open_run(folder).settings.losses.tokens.tokenizer == "vq"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_the_same_for_a_seed(kind, files, tmp_path):
    again = fitted(tmp_path / "again.safetensors", kind)
    assert again.read_bytes() == files[kind].read_bytes()
    if kind != "pca":  # of all images, whatever their order
        assert fitted(tmp_path / "other.safetensors", kind, seed=1).read_bytes() != files[kind].read_bytes()


def changed(file, out, **metadata):
    stored = read_tensors(file)
    out.write_bytes(to_bytes(stored.content, stored.metadata | metadata))
    return out


def standardised_by_other_numbers(file, out):
    said = read_tensors(file).metadata["recon.tokenizer"]
    return changed(file, out, **{"recon.tokenizer": json.dumps(json.loads(said) | {"std": [0.2, 0.2, 0.2]})})


def damaged(file, out):
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    out.write_bytes(content)
    return out


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda files, at: words("vq", fitted(at, "vq", size=32, patch=8)), ["patches of 8", "model.patch_size=4"]),
        (lambda files, at: words("pca", fitted(at, "pca", size=32, patch=8)), ["patches of 8", "model.patch_size=4"]),
        (lambda files, at: words("kmeans", fitted(at, "kmeans", "dead_leaves")), ["dead_leaves", "photos"]),
        (lambda files, at: words("vq", files["pca"]), ["kind=pca", "loss=pca"]),
        (lambda files, at: words("pca", files["vq"]), ["kind=vq", "loss=tokens"]),
        (lambda files, at: words("vq", damaged(files["vq"], at)), ["damaged"]),
        (lambda files, at: words("vq", changed(files["vq"], at, **{"recon.tokenizer": "{}"})), ["damaged"]),
        (lambda files, at: words("pca", standardised_by_other_numbers(files["pca"], at)), ["deviation", "0.2"]),
        (lambda files, at: words("vq", at), ["losses.tokens.tokenizer", "choose"]),
        (lambda files, at: words("pca", at), ["there is no file"]),
        (lambda files, at: [*words("pca", files["pca"]), "losses.pca.components=49"], ["components=49", "48 values"]),
        (lambda files, at: [*words("vq", files["vq"]), "losses.tokens.codes=32"], ["codes=32", "16"]),
    ],
)
def test_a_file_that_does_not_suit_is_one_line_and_nothing_is_written(make, named, files, tmp_path):
    given = make(files, tmp_path / "file.safetensors")
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(InvalidSetting) as error:
        pretrain(place, *PHOTOS, "train.steps=1", "name=not", *given)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and all(word in message for word in named), message
    assert list(place.iterdir()) == []


def test_a_checkpoint_is_no_tokenizer(files, tmp_path):
    folder = trained(tmp_path, "run", "loss=mse")
    for kind in ("vq", "pca"):
        with pytest.raises(InvalidSetting, match=r"no file of recon\.tokenizer"):
            pretrain(tmp_path, *PHOTOS, "train.steps=1", "name=not", *words(kind, folder / "model.safetensors"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kind": "kmeans", "codes": 5000}, ["codes=5000", "patches"]),
        ({"kind": "vq", "codes": 5000}, ["codes=5000", "patches"]),
        ({"kind": "colours", "size": 14, "patch": 7}, ["4 does not divide", "model.patch_size"]),
        ({"kind": "vq", "patch": 5}, ["16 pixels", "patches of 5"]),
        ({"kind": "dvae"}, ["kind=dvae"]),
        ({"kind": "vq", "data": None}, ["data=NAME"]),
        ({"kind": "vq", "data": "photo"}, ["photo"]),
    ],
)
def test_what_cannot_be_fitted_is_one_line_and_no_file(changes, named, tmp_path):
    with pytest.raises(InvalidSetting) as error:
        fitted(tmp_path / "not.safetensors", **changes)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and all(word in message for word in named), message
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_overwritten(files):
    with pytest.raises(InvalidSetting, match="exists"):
        fitted(files["pca"], "pca")
