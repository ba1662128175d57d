"""The models that the package carries: small, complete, and what they are said to be."""

from pathlib import Path

import pytest
import torch

from experiments.bundled_mae import __main__ as making
from losses import InvalidSetting, PixelHead
from recon.data import create_dataset, held_out_images
from recon.loaded_run import open_run
from recon.model import bundled as carried
from recon.model import create_model
from recon.model.bundled import BUNDLED, FILE, NAMES, REFINER, SHARPENED, bundled
from recon.training.initialisation import find_start
from recon.training.preview import Preview, held_out_figures
from recon.training.setup import masking_of
from tests.recon.training.conftest import settings


def test_both_files_together_are_small_and_in_half_precision():
    assert FILE.stat().st_size + REFINER.stat().st_size <= 5_000_000
    assert all(tensor.dtype == torch.float16 for name in NAMES for tensor in bundled(name).state.values())


def test_the_sharpened_one_is_the_other_to_the_bit_with_a_refiner_behind():
    plain, sharp = bundled(BUNDLED), bundled(SHARPENED)
    new = [name for name in sharp.state if name not in plain.state]
    assert new and all(name.startswith("refiner.") for name in new)
    assert all(torch.equal(sharp.state[name], tensor) for name, tensor in plain.state.items())
    assert sharp.sha256 != plain.sha256 and (sharp.mean, sharp.std) == (plain.mean, plain.std)


def test_the_sharpened_one_draws_sharper_photographs_at_some_cost_in_psnr():
    """On photographs of neither's training, and not by little: the eye is to see it."""
    chosen = settings("data.image_size=64")[0]
    found = {}
    for name in NAMES:
        model = bundled(name).model()
        images, noise, _ = held_out_images(
            create_dataset("photos", "val"), model.image_size, 24, 0, masking_of(chosen, model)
        )
        found[name] = held_out_figures(Preview(images, noise, 32).reconstruct(model))
    assert found[SHARPENED]["detail"] > 1.5 * found[BUNDLED]["detail"]
    assert found[BUNDLED]["masked_psnr"] - 2.5 < found[SHARPENED]["masked_psnr"] < found[BUNDLED]["masked_psnr"]


@pytest.mark.parametrize("name", NAMES)
def test_they_are_evaluated_by_their_names(name):
    subject = open_run(Path(name))
    assert (subject.name, subject.undrawable, subject.folder) == (name, None, Path(f"runs/{name}-results"))


@pytest.mark.parametrize(("name", "missing"), [(BUNDLED, "FILE"), (SHARPENED, "REFINER")])
def test_an_installation_without_them_says_so_in_one_line(monkeypatch, tmp_path, name, missing):
    monkeypatch.setattr(carried, missing, tmp_path / "none.safetensors")
    with pytest.raises(InvalidSetting, match="reinstall") as error:
        bundled(name)
    assert name in str(error.value) and "\n" not in str(error.value)


def made_from(tmp_path, monkeypatch, run) -> Path:
    """What `experiments.bundled_mae` writes, into a folder where there is no refiner yet."""
    for module in (making, carried):
        for name in ("FILE", "REFINER"):
            monkeypatch.setattr(module, name, tmp_path / f"{name}.safetensors")
    (tmp_path / "FILE.safetensors").write_bytes(FILE.read_bytes())
    return making.export(run)


def a_file(tmp_path, **changes) -> Path:
    """What a run from bundled_sharp, that has changed nothing but `changes`, would be."""
    path = tmp_path / "run.safetensors"
    sharp = bundled(SHARPENED)
    making.write(making.replace(sharp, state=sharp.model().state_dict() | changes), path, "recon")
    return path


def test_what_is_exported_from_a_run_is_its_refiner(tmp_path, monkeypatch):
    sharp = bundled(SHARPENED)
    weight = sharp.state["refiner.outputs.bias"] + 1
    out = made_from(tmp_path, monkeypatch, a_file(tmp_path, **{"refiner.outputs.bias": weight.float()}))
    assert out == tmp_path / "REFINER.safetensors" and out.stat().st_mode & 0o044
    exported = bundled(SHARPENED)
    assert exported.state.keys() == sharp.state.keys() and exported.sha256 != sharp.sha256
    assert torch.equal(exported.state["refiner.outputs.bias"], weight)


def test_a_refiner_of_another_base_is_refused(tmp_path, monkeypatch):
    made_from(tmp_path, monkeypatch, a_file(tmp_path))
    plain = bundled(BUNDLED)
    (tmp_path / "FILE.safetensors").unlink()
    other = plain.state | {"mask_token": plain.state["mask_token"] + 1}
    making.write(making.replace(plain, state=other), tmp_path / "FILE.safetensors", "recon")
    assert bundled(BUNDLED).sha256 != plain.sha256
    with pytest.raises(InvalidSetting, match="behind another"):
        bundled(SHARPENED)


def test_a_run_of_another_depth_is_not_exported(tmp_path, monkeypatch):
    model = create_model("nano", image_size=64, patch_size=8, decoder_depth=1, refiner_width=8)
    path, plain = tmp_path / "run.safetensors", bundled(BUNDLED)
    sizes = making.replace(plain.architecture, decoder_depth=1, refiner_width=8)
    making.write(making.replace(plain, state=model.state_dict(), architecture=sizes), path, "recon")
    with pytest.raises(InvalidSetting, match="more than the refiner"):
        made_from(tmp_path, monkeypatch, path)


def test_a_run_that_trained_more_than_the_refiner_is_not_exported(tmp_path, monkeypatch):
    other = bundled(SHARPENED).state["mask_token"].float() + 1
    with pytest.raises(InvalidSetting, match="more than the refiner"):
        made_from(tmp_path, monkeypatch, a_file(tmp_path, mask_token=other))
    assert not (tmp_path / "REFINER.safetensors").exists()


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_it_is_shown_beside_a_run_from_the_bundled_start_under_the_same_masks(ratio):
    chosen, given = settings("init=bundled", "loss=mse", f"masking.ratio={ratio}")
    start = find_start(chosen, given, PixelHead())
    model = create_model("nano", image_size=64, patch_size=8, mask_ratio=ratio)
    (other,) = start.beside(model).values()
    noise = torch.rand(2, model.patches, generator=torch.Generator().manual_seed(0))
    drawn = [each(torch.zeros(2, 3, 64, 64), noise=noise) for each in (model, other)]
    assert torch.equal(drawn[0].mask, drawn[1].mask)
    assert start.beside(create_model("nano", image_size=32, patch_size=8)) == {}


@pytest.mark.parametrize("init", [SHARPENED, str(FILE)])
def test_it_is_not_shown_beside_itself_or_a_file_of_one_s_own(init):
    chosen, given = settings(f"init={init}", "loss=mse")
    assert find_start(chosen, given, PixelHead()).sharpened is None
