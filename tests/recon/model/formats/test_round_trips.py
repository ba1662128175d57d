"""What is written in any format is read back bit for bit, as far as the format can hold it."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from losses import InvalidSetting, NormalisedPixelHead
from recon.model.formats import Architecture, Checkpoint, read, write
from recon.model.formats.architecture import TARGETS
from tests.recon.model.formats.conftest import encoder_only, made, same

WHOLE = {"official": "a.pth", "transformers": "folder", "recon": "b.safetensors"}
ENCODERS = WHOLE | {"timm": "c.safetensors"}


def through(checkpoint, folder, formats):
    folder.mkdir()
    for number, form in enumerate(formats):
        out = folder / f"{number}{ENCODERS[form]}"
        assert write(checkpoint, out, form) == []
        checkpoint = read(out)
        assert checkpoint.format == form
    return checkpoint


@pytest.mark.parametrize("formats", list(permutations(WHOLE)))
@pytest.mark.parametrize("target", [None, "pixels", "normalised"])
def test_a_whole_model_survives_every_format(files, tmp_path, state, formats, target):
    first = read(files["visualize"], target)
    found = through(first, tmp_path / "out", [*formats, formats[0]])
    assert same(found.state, state)
    assert (found.target, found.architecture, found.mean, found.std) == (
        first.target,
        first.architecture,
        first.mean,
        first.std,
    )


@pytest.mark.parametrize("formats", list(permutations(ENCODERS, 2)))
def test_an_encoder_survives_every_format(files, tmp_path, state, formats):
    found = through(read(files["encoder"]), tmp_path / "out", [*formats, formats[0]])
    assert same(found.state, encoder_only(state)) and not found.has_decoder


def test_positions_are_kept_as_the_file_has_them(tmp_path, state):
    rounded = state | {"pos_embed": state["pos_embed"] + 3e-7}
    torch.save({"model": rounded}, tmp_path / "rounded.pth")
    found = through(read(tmp_path / "rounded.pth"), tmp_path / "out", list(WHOLE))
    assert torch.equal(found.state["pos_embed"], rounded["pos_embed"])


@pytest.mark.parametrize("form", ["official", "transformers", "recon"])
def test_images_that_are_no_squares_and_colours_of_ones_own_survive(tmp_path, form):
    torch.save({"model": made().state_dict()}, tmp_path / "square.pth")
    own = made(image_size=(16, 64))
    square = read(tmp_path / "square.pth")
    wide = replace(
        square,
        state=own.state_dict(),
        architecture=replace(square.architecture, image_size=(16, 64)),
        mean=(0.1, 0.2, 0.3),
    )
    found = through(wide, tmp_path / "out", [form])
    assert same(found.state, own.state_dict())
    assert (found.architecture, found.mean) == (wide.architecture, wide.mean)


def test_what_a_format_cannot_hold_is_named(tmp_path):
    model = made(head=NormalisedPixelHead())
    whole = checkpoint_of(model, "normalised")
    assert write(whole, tmp_path / "a.pth", "official") == [
        "the patch statistics, without which normalised patches are drawn by the oracle alone"
    ]
    assert write(whole, tmp_path / "b.safetensors", "timm") == ["the decoder"]
    assert same(read(tmp_path / "b.safetensors").state, encoder_only(model.state_dict()))
    assert not read(tmp_path / "a.pth").has_statistics
    tokens = made(mask_tokens="encoder")
    with pytest.raises(InvalidSetting, match="mask tokens in the encoder"):
        write(checkpoint_of(tokens, "pixels", mask_tokens="encoder"), tmp_path / "c.pth", "official")
    assert not (tmp_path / "c.pth").exists()


def checkpoint_of(model, target, mask_tokens="decoder"):
    architecture = Architecture(128, 2, 2, 8, (32, 32), 64, 1, 2, mask_tokens, model.class_tokens)
    return Checkpoint(model.state_dict(), "recon", True, TARGETS[target], architecture, "0" * 64)


def test_mask_tokens_in_the_encoder_survive_in_the_projects_own_format(tmp_path):
    model = made(mask_tokens="encoder")
    found = through(checkpoint_of(model, "pixels", "encoder"), tmp_path / "out", ["recon", "recon"])
    assert same(found.state, model.state_dict()) and found.model().mask_tokens == "encoder"


def test_several_class_tokens_survive_in_the_projects_own_format_alone(tmp_path):
    model = made(class_tokens=3)
    checkpoint = checkpoint_of(model, "pixels")
    found = through(checkpoint, tmp_path / "out", ["recon", "recon"])
    assert same(found.state, model.state_dict()) and found.model().class_tokens == 3
    for form, name in (("official", "c.pth"), ("timm", "c.safetensors"), ("transformers", "c")):
        with pytest.raises(InvalidSetting, match=f"format={form} has no place for 3 class tokens"):
            write(checkpoint, tmp_path / name, form)
        assert not (tmp_path / name).exists()
