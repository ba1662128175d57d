"""Files of tensors: what is read of each kind, what a digest notices, and what is said of a file that is none."""

import collections
import enum
import json
import os
import pickle
import zipfile

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save, save_file

from losses import InvalidSetting
from losses.tensor_files import Inert, digest, from_bytes, read, tensors, to_bytes
from tests.losses.scenes import one_line

STATE = {"weight": torch.arange(6.0).view(2, 3), "half": torch.ones(2).half(), "count": torch.tensor(3)}


class Colour(enum.Enum):
    RED = 1


class Names(dict):
    pass


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        self.register_buffer("grain", torch.zeros(1), persistent=False)


def beside() -> dict[str, object]:
    """What training programs save beside the tensors."""
    network, lists = Network(), collections.defaultdict(list)
    lists["a"].append(1)
    optimizer = torch.optim.AdamW(network.parameters())
    return {
        "defaultdict": lists,
        "subclass of dict": Names(a=1),
        "deque": collections.deque([1, 2]),
        "range": range(3),
        "omegaconf": OmegaConf.create([1, {"a": 2}]),
        "enum": Colour.RED,
        "enum as a key": {Colour.RED: {Colour.RED}},
        "optimiser": optimizer,
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3),
        "module": network,
        "function": print,
    }


def same(found: dict, wanted: dict = STATE) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def refused(path, what="a checkpoint") -> str:
    with pytest.raises(InvalidSetting) as error:
        read(path, what)
    assert str(path) in one_line(error)
    return str(error.value)


def test_whatever_stands_beside_the_tensors_they_are_read(tmp_path):
    path = tmp_path / "a.pth"
    for name, value in beside().items():
        for protocol, zipped in ((2, True), (3, True), (4, True), (5, True), (2, False), (4, False)):
            torch.save(
                {"model": STATE, "x": value}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped
            )
            assert same(tensors(read(path).content["model"])), (name, protocol, zipped)


def test_tensors_in_a_dictionary_of_another_class_are_read(tmp_path):
    torch.save({"model": Names(STATE)}, tmp_path / "a.pth")
    assert same(tensors(read(tmp_path / "a.pth").content["model"]))


def test_of_a_whole_module_the_state_is_read(tmp_path):
    network = Network()
    for zipped in (True, False):
        torch.save(network, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        assert same(tensors(read(tmp_path / "a.pth").content), network.state_dict())


def test_a_file_is_known_by_its_first_bytes_not_by_its_name(tmp_path):
    save_file(STATE, tmp_path / "a.pth")
    torch.save(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    assert all(same(tensors(read(path).content)) for path in tmp_path.iterdir())


def test_a_file_that_is_none_is_told_with_its_remedy(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pth", "w") as archive:  # as torch.jit.save names its parts
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # reading one would wait for ever
    for name, content in {
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "page": b"\n<!DOCTYPE html><html><title>Sign in</title></html>",
        "empty": b"",
        "pickle": pickle.dumps({"a": 1}),
        "text": b"not weights at all",
    }.items():
        (tmp_path / name).write_bytes(content)
    for name, said in {
        "lfs": "git lfs pull",
        "page": "web page",
        "script.pth": "save its state_dict",
        "empty": "fetch it again",
        "pickle": "of another kind",
        "text": "of another kind",
        "pipe": "no regular file",
        "folder": "no regular file",
        "none": "there is no file",
    }.items():
        assert said in refused(tmp_path / name), name
    assert "read as LPIPS weights" in refused(tmp_path / "page", "LPIPS weights")


def test_a_pickle_of_a_new_protocol_runs_nothing(tmp_path):
    class Calls:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trace'}",)

    for protocol in (2, 4):
        torch.save({"model": STATE, "x": Calls()}, tmp_path / "a.pth", pickle_protocol=protocol)
        found = read(tmp_path / "a.pth").content
        assert same(tensors(found["model"])) and type(found["x"]) is Inert
    assert not (tmp_path / "trace").exists()


# Digests


def test_what_is_written_reads_back_and_is_vouched_for(tmp_path):
    (tmp_path / "a").write_bytes(to_bytes(STATE, {"step": "3"}))
    found = read(tmp_path / "a")
    assert same(found.content) and found.metadata == {"step": "3"} and found.verified
    save_file(STATE, tmp_path / "theirs", metadata={"step": "3"})
    theirs = read(tmp_path / "theirs")
    assert same(theirs.content) and theirs.metadata == {"step": "3"} and not theirs.verified


def test_one_changed_bit_anywhere_is_noticed_or_changes_nothing():
    whole = to_bytes(STATE, {"step": "3"})
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            found = from_bytes(bytes(changed))
        except Exception:
            continue
        assert same(found.content) and found.metadata == {"step": "3"}, bit


def test_a_digest_depends_on_every_part_and_not_on_the_order():
    base = digest(STATE, {"a": "b"})
    assert digest(dict(reversed(STATE.items())), {"a": "b"}) == base
    others = [
        digest(STATE, {"a": "c"}),
        digest(STATE | {"count": torch.tensor(4)}, {"a": "b"}),
        digest(STATE | {"count": torch.tensor([3])}, {"a": "b"}),
        digest(STATE | {"half": torch.ones(2).bfloat16()}, {"a": "b"}),
        digest({f"{name}s": tensor for name, tensor in STATE.items()}, {"a": "b"}),
    ]
    assert len({base, *others}) == 6


def test_equal_tensors_give_equal_bytes():
    """Of several entries of the metadata, in whatever order."""
    metadata = {name: name for name in "abcdefgh"}
    assert len({to_bytes(STATE, metadata), *(to_bytes(STATE, dict(reversed(metadata.items()))) for _ in range(9))}) == 1
    assert from_bytes(to_bytes(STATE, metadata)).metadata == metadata


def test_a_digest_of_other_content_is_refused_in_one_line(tmp_path):
    length = int.from_bytes((whole := to_bytes(STATE))[:8], "little")
    metadata = json.loads(whole[8 : 8 + length])["__metadata__"]
    (tmp_path / "a.safetensors").write_bytes(save(STATE | {"count": torch.tensor(4)}, metadata))
    assert "does not fit its digest" in refused(tmp_path / "a.safetensors")
