"""Where the trunk of LPIPS comes from, and how it is told that there is none."""

import hashlib
import urllib.error

import pytest
import torch
from safetensors.torch import load_file

from losses import InvalidSetting
from losses.features import weights
from recon.metrics.deep import Lpips
from tests.losses.scenes import one_line
from tests.recon.metrics.scenes import NETS


def refused(*arguments) -> str:
    with pytest.raises(InvalidSetting) as error:
        Lpips(*arguments)
    return one_line(error)


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
    monkeypatch.setitem(weights.TRUNKS, "squeeze", f"https://example.invalid/models/squeezenet1_1-{prefix}.pth")
    return f"squeezenet1_1-{prefix}.pth"


@pytest.mark.parametrize("name", NETS)
def test_without_network_lpips_says_where_to_put_the_file(name, hub):
    message = refused(name)
    for part in ("no route to host", weights.TRUNKS[name], str(hub)):
        assert part in message


def test_a_download_is_checked_kept_and_used(hub, monkeypatch, tmp_path, random_trunks, squeeze):
    name = publish(monkeypatch, tmp_path / "published.pth", random_trunks["squeeze"])
    asked = []

    def download(url, path, hash_prefix, progress):
        asked.append((url, hash_prefix))
        (tmp_path / "published.pth").rename(path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        found = Lpips("squeeze").provenance
        assert found == squeeze.provenance | {"source": "imagenet"}
    assert asked == [(weights.TRUNKS["squeeze"], name[-12:-4])] and (hub / name).is_file()


def test_a_cached_file_with_another_hash_is_refused(hub):
    hub.mkdir(parents=True)
    path = hub / "squeezenet1_1-b8a52dc0.pth"
    path.write_bytes(b"not what it says")
    message = refused("squeeze")
    assert str(path) in message and "delete" in message


def test_a_file_gives_its_own_provenance(random_trunks, squeeze):
    assert squeeze.provenance["source"] == str(random_trunks["squeeze"])
    assert len(squeeze.provenance["sha256"]) == 64


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
    message = refused("alex", str(tmp_path / "none.safetensors"))
    assert str(tmp_path / "none.safetensors") in message and weights.TRUNKS["alex"] in message


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_a_torn_file_is_named_as_what_it_should_be(tmp_path, suffix, content):
    path = tmp_path / f"torn{suffix}"
    path.write_bytes(content)
    message = refused("squeeze", str(path))
    assert str(path) in message and "LPIPS" in message and "VGG19" not in message


def test_a_file_of_another_network_is_refused(random_trunks, tmp_path):
    assert "features.0.weight" in refused("alex", str(random_trunks["squeeze"]))
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    assert "list.pth" in refused("squeeze", str(tmp_path / "list.pth"))


def test_an_unknown_network_is_refused():
    message = refused("vgg")
    assert "'vgg'" in message and "alex" in message and "squeeze" in message
