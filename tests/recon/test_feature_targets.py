"""Runs whose target has no pixels: nothing is drawn, the reports say so, and the encoder is as good as any."""

import json

import pytest
import torch

from losses import InvalidSetting
from recon.comparison.assemble import read_comparison
from recon.comparison.compare_runs import compare
from recon.evaluation.evaluate_run import evaluate_run
from recon.loaded_run import open_run
from recon.model.formats import read, write
from recon.run_folder import PICTURE
from recon.training.preview import Preview
from tests.helpers.small_runs import measuring, trained
from tests.losses.scenes import one_line
from tests.recon.comparison.conftest import comparing
from tests.recon.training.conftest import lines_of


@pytest.fixture(scope="module")
def hog(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("features"), "hog", "loss=hog", "train.ema=0.5")


def test_training_draws_nothing_and_says_so(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(Preview, "reconstruct", lambda *_: pytest.fail("nothing can be drawn"))
    folder = trained(tmp_path, "hog", "loss=hog")
    out = capfd.readouterr().out
    assert "picture    none: hog has no pixels" in out and "recon.probe run=runs/hog" in out and "PSNR" not in out
    assert not (folder / PICTURE).exists()
    assert not any(key.startswith("held_out/") for line in lines_of(folder) for key in line)


def test_an_evaluation_is_refused_in_one_line_and_leaves_nothing(hog):
    before = sorted(hog.iterdir())
    with pytest.raises(InvalidSetting) as error:
        evaluate_run(measuring(run=str(hog)))
    assert "predicts hog, of which there are no pictures; it can be probed" in one_line(error)
    assert sorted(hog.iterdir()) == before


@pytest.mark.usefixtures("without_drawing")
def test_a_comparison_has_its_row_without_numbers(hog, mse_run, copy_of, tmp_path, capfd):
    out = tmp_path / "report"
    assert compare(comparing(hog, copy_of(mse_run), out=str(out))) == 0
    said = capfd.readouterr()
    assert "not drawn: " in said.err and "predicts hog" in said.err
    found = read_comparison(out / "comparison.json")
    assert [row.label for row in found.rows[:2]] == ["hog", "one"]
    assert "no pictures" in found.rows[0].note
    cells = [value for value in found.results if value.row == found.rows[0].key and not value.variant]
    assert cells and all(value.value is None and "predicts hog" in value.reason for value in cells)
    assert json.loads((out / "comparison.json").read_text())["made"]["run/hog"]["expression"] == "hog"


def test_only_runs_without_pixels_cannot_be_compared(hog, tmp_path):
    with pytest.raises(InvalidSetting, match="predicts hog"):
        compare(comparing(hog, out=str(tmp_path / "report")))


@pytest.mark.parametrize("target", ["hog", "pca"])
def test_a_model_goes_through_this_projects_format_and_its_encoder_through_timms(target, hog, tmp_path):
    run = hog if target == "hog" else trained(tmp_path, target, "loss=pca", "losses.pca.components=7")
    checkpoint, file = read(run), tmp_path / "model.safetensors"
    assert checkpoint.target == target
    for format in ("official", "transformers"):
        with pytest.raises(InvalidSetting) as error:
            write(checkpoint, tmp_path / ("x.pth" if format == "official" else "x"), format)
        assert f"no place for a decoder of {target}" in one_line(error)
    assert write(checkpoint, tmp_path / "encoder.safetensors", "timm") == ["the decoder"]
    write(checkpoint, file, "recon")
    ours, theirs = open_run(run).model, open_run(file).model
    images = torch.rand(2, 3, 16, 16)
    noise = torch.rand(2, 16)
    with torch.no_grad():
        assert torch.equal(ours(images, noise=noise).prediction, theirs(images, noise=noise).prediction)
        if target == "pca":
            assert torch.equal(ours(images, noise=noise).pixels, theirs(images, noise=noise).pixels)
            assert ours.target.axes.ne(torch.eye(48)).any()  # fitted, not the default
    assert (open_run(file).undrawable is None) == (target == "pca")


def test_a_run_begins_with_the_decoder_and_the_components_of_another(tmp_path):
    first = trained(tmp_path, "first", "loss=pca")
    again = trained(tmp_path, "again", "loss=pca", "init=runs/first", "optim.base_lr=1e-20", "seed=5")
    other = trained(tmp_path, "other", "loss=mse", "init=runs/first")
    one, two = open_run(first).model, open_run(again).model
    assert torch.equal(one.target.axes, two.target.axes)
    torch.testing.assert_close(one.decoder_pred.weight, two.decoder_pred.weight)
    assert open_run(other).model.target is None and "decoder" in open_run(other).resolved["init"]["left_out"] + [
        "decoder"
    ]
    assert "predicts pca" in open_run(other).resolved["init"]["decoder"]
