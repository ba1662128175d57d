"""Published datasets and those on hubs: what is read, and what is said when they are not there."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from torchvision import datasets

from recon.data import create_dataset
from recon.data import public as hub_module
from tests.recon.data.conftest import picture, save, the_error, write_shard

# ---- published datasets


def test_imagenette_is_found_where_torchvision_unpacks_it(tmp_path):
    save(tmp_path / "imagenette2-320", *(f"{s}/{c}/1.JPEG" for s in ("train", "val") for c in ("n01", "n02")))
    assert create_dataset("imagenette", "train", root=tmp_path).classes == ["n01", "n02"]
    assert len(create_dataset("imagenette", "val", root=tmp_path / "imagenette2-320")) == 2


def test_missing_datasets_say_where_to_put_them(tmp_path):
    for name, place in (("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python"), ("stl10", "stl10_bin")):
        message = the_error("data.download=true", name, "train", root=tmp_path)
        assert name in message and f"{tmp_path}/{place}" in message
    the_error(r"imagenette is not at .*data\.root=PATH.*data\.download=true", "imagenette", "val", root=tmp_path)
    for download in (False, True):
        the_error(r"https://image-net\.org.*train/<class>", "imagenet", "val", root=tmp_path, download=download)


@pytest.mark.parametrize("name, module", [("cifar10", "cifar"), ("stl10", "stl10"), ("imagenette", "imagenette")])
def test_a_failed_download_gives_its_reason(tmp_path, monkeypatch, name, module):
    def no_network(*args, **kwargs):
        raise OSError("<urlopen error\nname resolution>")

    monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", no_network)
    the_error(rf"{name} could not be downloaded to .*name resolution", name, "train", root=tmp_path, download=True)


def test_cifar10_is_read_as_published(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    train = [[name, write(name, {"data": pixels.reshape(6, -1), "labels": [0, 1] * 3})] for name in ("data_batch_1",)]
    test = [["test_batch", write("test_batch", {"data": pixels[:2].reshape(2, -1), "labels": [1, 0]})]]
    meta = write("batches.meta", {"label_names": ["plane", "car"]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": meta})

    source = create_dataset("cifar10", "train", root=tmp_path)
    assert len(source) == 6 and len(create_dataset("cifar10", "val", root=tmp_path)) == 2
    image, label = source.read(3)
    assert np.array_equal(np.asarray(image), pixels[3].transpose(1, 2, 0)) and label == 1
    assert source.classes == ["plane", "car"]
    assert source.mean == (0.4914, 0.4822, 0.4465)


# ---- hubs


def test_shards_are_streamed_in_order_split_by_split(tmp_path):
    pytest.importorskip("webdataset")
    write_shard(tmp_path / "birds" / "pretrained-train-0.tar", [0, 1, 2])
    write_shard(tmp_path / "birds" / "pretrained-train-1.tar", [3, 4])
    write_shard(tmp_path / "birds" / "pretrained-val-0.tar", [7])
    train, val = (create_dataset("wds/birds", split, root=tmp_path) for split in ("train", "val"))
    for _ in range(2):  # every iteration begins at the first
        assert [label for _, label in train] == [0, 1, 2, 3, 4]
    assert [(image.mode, image.tobytes(), label) for image, label in val] == [("RGB", picture(0).tobytes(), 7)]


def test_shards_are_found_by_their_info_file_too(tmp_path):
    pytest.importorskip("webdataset")
    write_shard(tmp_path / "birds" / "x0.tar", [5])
    entry = {"name": "train", "num_samples": 1, "filenames": ["x0.tar"], "shard_lengths": [1]}
    (tmp_path / "birds" / "_info.json").write_text(json.dumps({"splits": {"train": entry}}))
    assert [label for _, label in create_dataset("wds/birds", "train", root=tmp_path)] == [5]
    the_error(r"wds/birds has no shards for 'val'.*validation-\*\.tar", "wds/birds", "val", root=tmp_path)


def test_a_folder_on_the_hub_is_read_with_its_classes(tmp_path):
    pytest.importorskip("datasets")
    names = [f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in ("cat", "dog") for i in range(2)]
    save(tmp_path / "pets", *names)
    source = create_dataset(f"hfds/{tmp_path / 'pets'}", "val", root=tmp_path / "cache")
    assert source.classes == ["cat", "dog"] and len(source) == 4
    assert [source.read(i)[1] for i in range(4)] == [0, 0, 1, 1]
    assert source.read(0)[0].mode == "RGB"
    the_error(r"hfds/.*nothing could not be opened", f"hfds/{tmp_path / 'nothing'}", "train", root=tmp_path / "cache")


@pytest.mark.parametrize("name, package", [("hfds/cifar10", "datasets"), ("wds/birds", "webdataset")])
def test_a_missing_package_is_told_with_its_remedy(monkeypatch, name, package):
    monkeypatch.setattr(hub_module, "find_spec", lambda wanted: None)
    the_error(rf"{name} needs the package {package}: pip install 'recon\[hub\]'", name, "train")
