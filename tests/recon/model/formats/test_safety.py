"""Nothing in a file is ever executed."""

import argparse
import os
import pathlib
import pickle

import pytest
import torch

from losses import InvalidSetting, tensor_files
from losses.tensor_files import Inert
from recon.model.formats import read
from tests.recon.model.formats.conftest import same


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def writes(path):
    return {
        "a builtin": Calls(eval, f"open({str(path)!r}, 'w')"),
        "a method": Calls(pathlib.Path.touch, pathlib.PurePosixPath(str(path))),
        "a shell": Calls(os.system, f"touch {path}"),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("how", ["a builtin", "a method", "a shell"])
def test_code_in_a_pickle_is_not_run(tmp_path, state, how, zipped):
    trace, path = tmp_path / "trace", tmp_path / "hostile.pth"
    torch.save({"model": state, "args": writes(trace)[how]}, path, _use_new_zipfile_serialization=zipped)
    try:
        found = read(path)
    except InvalidSetting as error:
        assert "\n" not in str(error) and "hostile.pth" in str(error)
    else:
        assert same(found.state, state) and found.target is None
    assert not trace.exists()
    with pytest.raises(Exception):  # noqa: B017  the same file does run something where it is let
        torch.load(path, weights_only=False)["args"].missing  # noqa: B018
    assert trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_arguments_keep_their_plain_values_and_are_no_namespace(tmp_path, state, zipped):
    arguments = argparse.Namespace(norm_pix_loss=False, output_dir=pathlib.PurePosixPath("/x"), betas=(0.9, 0.95))
    torch.save({"model": state, "args": arguments}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = tensor_files.read(tmp_path / "a.pth").content["args"]
    assert type(found) is Inert and found.betas == (0.9, 0.95) and type(found.output_dir) is Inert
    assert read(tmp_path / "a.pth").target == "pixels"


class Config:
    """A class that the list of inert ones does not have."""

    norm_pix_loss = False


@pytest.mark.parametrize("zipped", [True, False])
def test_a_class_that_is_not_listed_keeps_its_plain_values_too(tmp_path, state, zipped):
    config = Config()
    config.norm_pix_loss = True
    torch.save({"model": state, "args": config}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert type(tensor_files.read(tmp_path / "a.pth").content["args"]) is Inert
    assert read(tmp_path / "a.pth").target == "normalised pixels"


def test_a_bare_pickle_is_refused(tmp_path):
    trace = tmp_path / "trace"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(writes(trace)["a builtin"]))
    with pytest.raises(InvalidSetting, match="cannot be read"):
        read(tmp_path / "a.pth")
    assert not trace.exists()


def test_what_is_let_in_for_one_file_is_not_let_in_afterwards(tmp_path, files):
    read(files["full"])
    with pytest.raises(pickle.UnpicklingError):
        torch.load(files["full"], weights_only=True)
