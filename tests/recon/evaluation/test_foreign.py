"""Checkpoints of others stand where a run stands: evaluated, refused where there is nothing to draw, compared."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from losses import InvalidSetting, NormalisedPixelHead
from recon.comparison import compare_runs
from recon.comparison.assemble import assemble, read_comparison, rows_of_runs
from recon.comparison.compare_runs import compare, gather, usable
from recon.evaluation import results as record
from recon.evaluation.evaluate_run import evaluate_run
from recon.evaluation.rows import run_rows
from recon.loaded_run import open_run
from recon.model.formats import Architecture, Checkpoint, read, write
from recon.study_config import CompareSettings, Where
from tests.helpers.small_runs import measuring
from tests.recon.model.formats.conftest import encoder_only, made

PHOTOS = Where(name="photos")


@pytest.fixture(scope="module")
def place(tmp_path_factory, run) -> Path:
    """Files of 16 pixels and patches of 4, as the run has; and the run."""
    folder = tmp_path_factory.mktemp("foreign")
    state = made(image_size=(16, 16), patch_size=4).state_dict()
    torch.save({"model": encoder_only(state)}, folder / "encoder.pth")
    torch.save({"model": state}, folder / "unknown.pth")
    for target in ("pixels", "normalised"):
        write(read(folder / "unknown.pth", target), folder / f"{target}.safetensors", "recon")
    write(read(folder / "unknown.pth", "pixels"), folder / "hf", "transformers")
    shutil.copytree(run, folder / "plain")
    return folder


def asked(path: Path, **changes):
    return measuring(images=6, pictures=2, run=str(path), **{"data": PHOTOS} | changes)


def comparing(place: Path, *runs: str, **changes) -> CompareSettings:
    quick = vars(measuring(images=6, pictures=2)) | {"out": str(place / "report")} | changes
    quick.pop("run")
    return CompareSettings(**quick, runs=[str(place / name) for name in runs])


def test_a_file_gives_a_run_with_a_folder_beside_it_that_is_not_made_yet(place):
    loaded = open_run(place / "pixels.safetensors")
    assert (loaded.folder, loaded.name, loaded.unfinished) == (place / "pixels.safetensors-results", "pixels", None)
    assert set(loaded.resolved) >= {"objective", "head", "steps", "mean", "std", "weights"}
    assert (loaded.settings.model.patch_size, loaded.settings.data.image_size) == (4, [16, 16])
    assert (loaded.settings.masking.strategy, loaded.settings.masking.ratio) == ("random", 0.75)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded.model.encode(images), read(place / "unknown.pth").model().encode(images))
    assert open_run(place / "hf").folder == open_run(place / "hf/model.safetensors").folder == place / "hf"


def test_a_run_s_model_and_files_that_are_not_there_are_refused(place, tmp_path):
    shutil.copytree(place / "plain", tmp_path / "one")
    with pytest.raises(InvalidSetting, match="is the model of the run"):
        open_run(tmp_path / "one/model.safetensors")
    with pytest.raises(InvalidSetting, match="there is no run"):
        open_run(tmp_path / "two.pth")


def test_raw_pixels_are_evaluated_as_a_run_is(place, capsys):
    assert evaluate_run(asked(place / "pixels.safetensors")) == 0
    found = record.read(place / "pixels.safetensors-results")
    assert found is not None and str(place / "pixels.safetensors-results/evaluation.json") in capsys.readouterr().out
    (row,) = (row for row in found.rows if row.kind == "run")
    assert (row.key, row.note) == ("run", "a checkpoint of this project")
    assert found.protocol.data == found.measuring["data"]["name"] == "photos"
    assert found.model["sha256"] == read(place / "pixels.safetensors").sha256


def test_normalised_pixels_without_statistics_stand_as_the_oracle_alone(place, capsys):
    assert evaluate_run(asked(place / "unknown.pth", target="normalised")) == 0
    found = record.read(place / "unknown.pth-results")
    (row,) = (row for row in found.rows if row.kind == "run")
    assert row.key == "oracle" and "leaks the answer" in row.note
    assert found.results.number("oracle", "masked_psnr") is not None
    assert "unknown (oracle)" in capsys.readouterr().out


def test_normalised_pixels_with_statistics_are_drawn_honestly_too(tmp_path):
    model = made(image_size=(16, 16), patch_size=4, head=NormalisedPixelHead())
    architecture = Architecture(128, 2, 2, 4, (16, 16), 64, 1, 2)
    whole = Checkpoint(model.state_dict(), "recon", True, "normalised pixels", architecture, "0" * 64)
    write(whole, tmp_path / "own.safetensors", "recon")
    rows = run_rows(open_run(tmp_path / "own.safetensors"), torch.device("cpu"))
    assert [row.key for row in rows] == ["run", "oracle"]


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("encoder.pth", {}, r"encoder.pth holds no decoder.*recon.probe run=.*encoder.pth"),
        ("unknown.pth", {}, r"unknown.pth does not say.*target=pixels or target=normalised"),
        ("pixels.safetensors", {"data": Where()}, r"no data of its own; give data=NAME"),
        ("pixels.safetensors", {"target": "normalised"}, r"says itself that its target is pixels"),
        ("pixels.safetensors", {"target": "raw"}, r"target=raw: choose"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_writes_nothing(place, name, changes, said):
    before = sorted(place.rglob("*"))
    with pytest.raises(InvalidSetting, match=said) as error:
        evaluate_run(asked(place / name, **changes))
    assert "\n" not in str(error.value) and sorted(place.rglob("*")) == before


def test_an_encoder_alone_can_be_opened_to_be_probed(place):
    loaded = open_run(place / "encoder.pth")
    assert loaded.model.encode(torch.rand(1, 3, 16, 16)).shape == (1, 17, 128)


def test_files_and_runs_stand_in_one_report(place, without_drawing, monkeypatch, capsys):
    """The files take the run's data; the oracle alone bears no contest; an encoder alone is left out with a reason."""
    runs = ["normalised.safetensors", "plain", "pixels.safetensors", "hf", "encoder.pth"]
    settings = comparing(place, *runs)
    assert compare(settings) == 1  # one was left out
    printed = capsys.readouterr()
    assert "encoder.pth holds no decoder" in printed.err
    found = read_comparison(place / "report/comparison.json")
    rows = {row.key: row for row in found.rows if row.kind == "run"}
    wanted = {"oracle/normalised", "run/plain", "oracle/plain", "run/pixels", "run/hf", "run/encoder"}
    assert set(rows) == wanted
    values = {key: found.results.number(key, "masked_psnr") for key in rows}
    assert values["run/hf"] == values["run/pixels"] and values["run/encoder"] is None
    assert "holds no decoder" in rows["run/encoder"].note
    assert all("oracle/normalised" not in best for best in found.best.values())
    assert set(found.made) == {"run/plain"}
    assert set(found.checkpoints) == {"oracle/normalised", "run/pixels", "run/hf"}
    assert "data.name=photos" in found.checkpoints["run/hf"]["command"]
    assert (place / "report/index.html").is_file()
    assert found.protocol.data == "photos"

    monkeypatch.setattr(compare_runs, "announced", lambda *_: pytest.fail("it was evaluated again"))
    gather([place / name for name in runs], settings)


def test_a_report_of_one_oracle_alone_is_a_report(place, without_drawing):
    settings = comparing(place, "normalised.safetensors", data=PHOTOS, out=str(place / "alone"))
    assert compare(settings) == 0
    assert (place / "alone/index.html").is_file()
    with pytest.raises(InvalidSetting, match="give data=NAME"):
        compare(comparing(place, "normalised.safetensors"))


def test_the_target_that_is_given_is_for_the_files_that_cannot_tell(place):
    candidates = gather(
        [place / "pixels.safetensors", place / "unknown.pth"],
        comparing(place, data=PHOTOS, target="normalised"),
    )
    assert set(rows_of_runs(candidates)) == {"run/pixels", "oracle/unknown"}
    other = comparing(place, data=PHOTOS, target="pixels")
    other_target = open_run(place / "unknown.pth", "pixels")
    weights = candidates[1].found.weights
    assert usable(candidates[1].run, comparing(place, data=PHOTOS, target="normalised"), weights) is not None
    assert usable(other_target, other, weights) is None
    assert assemble(candidates, rows_of_runs(candidates), other).rows


def test_a_run_is_judged_on_other_data_and_the_record_says_so(place, tmp_path):
    shutil.copytree(place / "plain", tmp_path / "plain")
    elsewhere = Where(name="dead_leaves")
    assert evaluate_run(asked(tmp_path / "plain", data=elsewhere)) == 0
    found = record.read(tmp_path / "plain")
    assert found.protocol.data == "dead_leaves"
    assert found.measuring["data"] == asdict(elsewhere)
    loaded, weights = open_run(tmp_path / "plain"), found.weights
    assert usable(loaded, comparing(tmp_path, data=elsewhere), weights) is not None
    assert usable(loaded, comparing(tmp_path), weights) is None  # on its own data it has not been evaluated
