"""A whole evaluation of a small run: its rows, what it writes, and how it says what is wrong."""

import json
import re
import shutil
from itertools import pairwise

import pytest
import torch
import yaml

from losses import InvalidSetting
from recon.evaluation import results as record
from recon.evaluation.evaluate_run import evaluate_run, evaluated
from recon.evaluation.suite import networks
from recon.loaded_run import load_run, open_run
from recon.metrics import GROUPS
from recon.study_config import FeatureSettings, LpipsSettings
from tests.recon.evaluation.conftest import measuring, trained


@pytest.fixture(scope="module")
def page(subject, evaluation):
    return record.as_page(subject, measuring(), evaluation)


def test_every_row_stands_in_the_table(page):
    kinds = {key: row["kind"] for key, row in page["rows"].items()}
    simple = dict.fromkeys(("mean", "nearest", "biharmonic", "ridge"), "simple")
    assert kinds == {"run": "run", "oracle": "run", **simple, "truth": "truth"}
    assert "oracle" in page["rows"]["oracle"]["note"]


def test_every_column_has_its_description_and_every_cell_a_value_or_a_reason(page):
    names = [metric["name"] for metric in page["metrics"]]
    everything = {name for group in GROUPS.values() for name in group}
    assert set(names) == everything - {"excess_mse"}
    for metric in page["metrics"]:
        assert metric["what"].endswith(".") and metric["unit"] and metric["reference"]
        assert metric["better"] in ("higher", "lower", "truth")
    for row in page["rows"].values():
        assert list(row["values"]) == names
        for cell in row["values"].values():
            assert (cell["value"] is None) == bool(cell["reason"])
    assert "lpips" in page["rows"]["run"]["values"]["lpips"]["reason"].lower()


def test_the_truth_is_perfect(page):
    values = {name: cell["value"] for name, cell in page["rows"]["truth"]["values"].items()}
    assert values["masked_psnr"] == pytest.approx(58.92, abs=0.01)  # the rounding to 8 bits
    assert values["masked_mse"] == values["masked_l1"] == values["vgg19"] == values["kid"] == 0
    assert values["retention"] == pytest.approx(1, abs=1e-6) and values["coherence"] == pytest.approx(1, abs=1e-6)
    assert values["sliced_wasserstein"] == 0 and values["log_spectral_distance"] == 0


def test_a_value_lies_in_its_interval(page):
    for row in page["rows"].values():
        for name, cell in row["values"].items():
            if cell["low"] is not None:
                assert cell["low"] <= cell["value"] <= cell["high"], name


def test_the_mean_colour_has_no_detail_at_all(page):
    values = {name: cell["value"] for name, cell in page["rows"]["mean"]["values"].items()}
    for name in ("variance_of_laplacian", "tenengrad", "brenner", "retention", "coherence", "invented"):
        assert values[name] == pytest.approx(0, abs=1e-9), name
    assert values["blur_effect"] == 1 and values["missing"] == pytest.approx(1)


def test_two_evaluations_of_one_run_are_the_same(subject, evaluation):
    again = evaluated(subject, measuring(batch=12), networks(measuring()))
    assert again.seen.digest == evaluation.seen.digest
    for key, measured in again.seen.measured.items():
        for name, values in measured.values.items():
            torch.testing.assert_close(
                values, evaluation.seen.measured[key].values[name], rtol=1e-4, atol=1e-5, equal_nan=True
            )


def test_another_run_s_evaluation_lends_its_simple_reconstructions(subject, evaluation):
    lent = evaluated(subject, measuring(), networks(measuring()), evaluation)
    assert [row.key for row in lent.rows] == [row.key for row in evaluation.rows]
    assert lent.seen.measured["ridge"] is evaluation.seen.measured["ridge"]
    assert lent.seen.measured["run"] is not evaluation.seen.measured["run"]


def test_what_is_written_comes_back(tmp_path, run, evaluation):
    folder = tmp_path / "runs" / "copy"
    shutil.copytree(run, folder)
    written = record.write(open_run(folder), measuring(), evaluation)
    found = record.read(folder)
    assert found.page == json.loads(json.dumps(written.page))
    assert found.tensors.keys() == written.tensors.keys()
    assert all(torch.equal(found.tensors[key].nan_to_num(), t.nan_to_num()) for key, t in written.tensors.items())
    assert found.protocol == evaluation.protocol
    for name in (record.JSON, record.TENSORS):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        assert record.read(folder) is None
        (folder / name).write_bytes(whole)


def test_the_command_writes_its_record_and_prints_every_row(tmp_path, run, capsys):
    folder = tmp_path / "runs" / "copy"
    shutil.copytree(run, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert evaluate_run(measuring(run=str(folder), ratios=[0.5], images=4)) == 0
    out = capsys.readouterr().out
    page = record.read(folder).page
    assert all(row["label"] in out for row in page["rows"].values())
    assert "4 held-out images of photos, 16x16 pixels, patches of 4, 75% hidden" in out
    assert page["rows"]["run"]["by_ratio"]["ratio"] == [0.5]
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before}
    assert after == before  # evaluating touches no other file of the run


def test_settings_that_an_older_program_did_not_have_are_at_their_defaults(tmp_path, run):
    folder = tmp_path / "older"
    shutil.copytree(run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config.pop("shard") is False and config["masking"].pop("decoded") == 1.0
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert load_run(folder).settings == load_run(run).settings


def damaged(folder, kind: str) -> None:
    if kind == "no model":
        (folder / "model.safetensors").unlink()
    elif kind == "half a model":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    elif kind == "settings that are none":
        (folder / "config.yaml").write_text("loss: [")
    elif kind == "half its settings":
        lines = (folder / "config.yaml").read_text().splitlines(True)
        (folder / "config.yaml").write_text("".join(lines[: len(lines) // 2]))
    elif kind == "another model":
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("decoder_width: 32", "decoder_width: 64"))


@pytest.mark.parametrize(
    "kind", ["no model", "half a model", "settings that are none", "half its settings", "another model"]
)
def test_a_run_that_cannot_be_read_is_named_in_one_line(tmp_path, run, kind):
    folder = tmp_path / "torn"
    shutil.copytree(run, folder)
    damaged(folder, kind)
    with pytest.raises(InvalidSetting) as error:
        evaluate_run(measuring(run=str(folder)))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"run": None}, "run=runs/NAME"),
        ({"run": "runs/nobody"}, "runs/nobody"),
        ({"images": 0}, "images=0"),
        ({"lpips": LpipsSettings(net="vgg")}, "lpips.net"),
        ({"features": FeatureSettings(tap="conv9_1")}, "conv9_1"),
        ({"ratios": [1.0]}, "ratios="),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_in_one_line(run, changes, named):
    with pytest.raises(InvalidSetting) as error:
        evaluate_run(measuring(**{"run": str(run)} | changes))
    assert named in str(error.value) and "\n" not in str(error.value)


def test_an_unfinished_run_says_how_far_it_came(tmp_path, run):
    folder = tmp_path / "unfinished"
    shutil.copytree(run, folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(re.sub(r"(?m)^  steps: 3$(?=\n  training_images)", "  steps: 9", text))
    assert open_run(folder).unfinished == "unfinished: 3 of 9 steps"
    assert open_run(run).unfinished is None


def test_on_fields_with_a_known_answer_nothing_beats_bayes(tmp_path):
    run = trained(tmp_path, "fields", "loss=mse", "data.name=gaussian_field")
    found = evaluated(open_run(run), measuring(images=16), networks(measuring()))
    for key, measured in found.seen.measured.items():
        excess = measured.values["excess_mse"]
        assert excess.mean() > 0 or key in ("bayes", "truth"), key
    drawn = found.seen.measured["posterior"].values
    assert 1.5 < drawn["masked_mse"].mean() / found.seen.measured["bayes"].values["masked_mse"].mean() < 2.5
    assert (found.seen.measured["bayes"].values["excess_mse"] == 0).all()
    assert found.seen.measured["truth"].values["excess_mse"].mean() < 0  # the truth is no reconstruction
    bands = record.textures(found.seen.measured["bayes"], 4)["bands"]
    assert bands["exact_retention"] == pytest.approx(bands["retention"], rel=0.5)  # of 16 images
    assert all(a > b for a, b in pairwise(bands["exact_retention"]))  # the finer, the less can be known
    assert record.textures(found.seen.measured["run"], 4)["bands"].keys() == bands.keys() - {"exact_retention"}
