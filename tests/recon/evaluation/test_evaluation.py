"""A whole evaluation of a small run: its rows, what it writes, and how it says what is wrong."""

import json
import os
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import yaml

from losses import InvalidSetting
from recon.data import create_dataset
from recon.evaluation import results as record
from recon.evaluation.evaluate_run import evaluate, evaluate_run, own_metrics, run_pass
from recon.evaluation.evaluator import MetricSuite, load_suite
from recon.evaluation.rows import Row
from recon.loaded_run import load_run, open_run
from recon.metrics import GROUPS, METRICS
from recon.metrics.realism import TITLES
from recon.result_table import as_json
from recon.scoreboard import table
from recon.study_config import FeatureSettings, LpipsSettings
from tests.helpers.small_runs import measuring, trained


def numbers(evaluation, row: str) -> dict[str, float | None]:
    """Metric -> a row's number."""
    return {column.name: evaluation.results.number(row, column.name) for column in evaluation.columns}


def test_every_row_stands_in_the_table(evaluation):
    kinds = {row.key: row.kind for row in evaluation.rows}
    simple = dict.fromkeys(("mean", "nearest", "biharmonic", "ridge", "pca", "kmeans"), "simple")
    assert kinds == {"run": "run", "oracle": "run", **simple, "truth": "truth"}
    assert "oracle" in next(row.note for row in evaluation.rows if row.key == "oracle")


def test_every_column_has_its_description_and_every_cell_a_value_or_a_reason(evaluation):
    names = [column.name for column in evaluation.columns]
    everything = {name for group in GROUPS.values() for name in group}
    assert set(names) == everything - {"excess_mse"}
    for column in evaluation.columns:
        assert column.description.endswith(".") and column.unit and column.reference
        assert column.better in ("higher", "lower", "truth")
    for row in evaluation.rows:
        found = [v for v in evaluation.results if v.row == row.key and not v.variant]
        assert [v.metric for v in found] == [*names, "luma_mse"]
        assert {v.run for v in found} == {"<script>two" if row.kind == "run" else ""}
        for value in found:
            assert (value.value is None) == bool(value.reason)
    assert "lpips" in evaluation.results.get("run", "lpips").reason.lower()


def test_the_truth_is_perfect(evaluation):
    values = numbers(evaluation, "truth")
    assert values["masked_psnr"] == pytest.approx(58.92, abs=0.01)  # the rounding to 8 bits
    assert values["masked_mse"] == values["masked_l1"] == values["vgg19"] == values["kid"] == 0
    assert values["hallucination"] == values["frechet_distance"] == values["frechet_uncorrected"] == values["mind"] == 0
    assert values["p_ids"] == values["u_ids"] == 0.5
    assert values["invented_share"] == pytest.approx(0, abs=1e-6)
    assert values["retention"] == pytest.approx(1, abs=1e-6) and values["coherence"] == pytest.approx(1, abs=1e-6)
    assert values["sliced_wasserstein"] == 0 and values["log_spectral_distance"] == 0


def test_a_value_lies_in_its_interval(evaluation):
    for found in evaluation.results:
        if found.interval is not None:
            assert found.low <= found.value <= found.high, found


def test_detail_is_a_paired_ratio_to_the_truth(evaluation):
    found, marginal = evaluation.results.get("truth", "detail"), evaluation.results.get("truth", "tenengrad")
    assert (found.value, found.low, found.high, found.n) == (1, 1, 1, 12) and marginal.low < marginal.high
    run, truth = (evaluation.results.number(row, "tenengrad") for row in ("run", "truth"))
    assert evaluation.results.number("run", "detail") == pytest.approx(run / truth, rel=1e-5)
    *_, line, intervals = table(evaluation.rows, evaluation.columns, evaluation.results).splitlines()
    assert line.startswith("the truth") and " 1.000  " in line and intervals.split()[0].startswith("±")  # of seams


def test_predictions_are_rounded_as_the_truth_is(evaluation):
    """A prediction that differs from the truth by less than half a level is the truth, by every metric."""

    def nearly(truth, mask):
        return truth + 0.4 / 255 * torch.where(torch.arange(16) % 2 == 0, 1, -1)

    protocol, settings = replace(evaluation.protocol, images=4), measuring(images=4)
    rows = [Row("run", "", "run", nearly), Row("truth", "", "truth", lambda truth, mask: truth)]
    suite, source = MetricSuite(METRICS, None, {}, {}, []), create_dataset("photos", "val")
    measured = run_pass(rows, protocol, source, settings, suite, torch.device("cpu")).measured
    for name, true in measured["truth"].tensors.items():
        assert torch.equal(measured["run"].tensors[name].nan_to_num(), true.nan_to_num()), name


def test_metrics_by_a_network_that_the_objective_minimised_are_marked(loaded, evaluation):
    suite = load_suite(measuring())
    weights = {"perceptual": suite.provenance["vgg19"]}
    own = own_metrics(replace(loaded, resolved=loaded.resolved | {"weights": weights}), suite)
    assert own == ("vgg19", "hallucination", *TITLES) and own_metrics(loaded, suite) == ()
    rows = [replace(row, own=own) if row.kind == "run" else row for row in evaluation.rows]
    printed = table(rows, evaluation.columns, evaluation.results).splitlines()
    marked = [line.count("*") for line in printed if line.startswith(("<script>", "mean"))]
    assert printed[-1].startswith("* by a network") and marked == [2, 2, 0]  # of LPIPS' place and KD-VGG19
    assert "*" not in table(evaluation.rows, evaluation.columns, evaluation.results)


def test_the_mean_colour_has_no_detail_at_all(evaluation):
    values = numbers(evaluation, "mean")
    for name in ("variance_of_laplacian", "tenengrad", "brenner", "retention", "coherence", "invented"):
        assert values[name] == pytest.approx(0, abs=1e-9), name
    assert values["blur_effect"] == 1 and values["missing"] == pytest.approx(1)


def test_curves_are_points_of_the_table(evaluation):
    bands = evaluation.results.curves("truth", "bands")
    assert bands.at == [0, 0.125, 0.25, 0.375] and set(bands.columns) == {"retention", "coherence", "error", "gain"}
    assert bands.columns["error"] == pytest.approx([0] * 4, abs=1e-6)
    assert evaluation.results.curves("truth", "spectra").at == bands.at[1:]
    assert evaluation.results.curves("truth", "by_ratio") is None  # it was not asked for


def test_two_evaluations_of_one_run_are_the_same(loaded, evaluation):
    again = evaluate(loaded, measuring(batch=12), load_suite(measuring()))
    assert again.digest == evaluation.digest
    assert again.tensors.keys() == evaluation.tensors.keys()
    for name, values in again.tensors.items():
        if not name.endswith(("masks", "pictures", "moments", "power")):
            torch.testing.assert_close(values, evaluation.tensors[name], rtol=1e-4, atol=1e-5, equal_nan=True)


def test_another_run_s_evaluation_lends_its_simple_reconstructions(loaded, evaluation):
    lent = evaluate(loaded, measuring(), load_suite(measuring()), evaluation)
    assert lent.rows == evaluation.rows and set(lent.results) == set(evaluation.results)
    assert lent.tensors["ridge/masked_mse"] is evaluation.tensors["ridge/masked_mse"]
    assert lent.tensors["run/masked_mse"] is not evaluation.tensors["run/masked_mse"]


def test_what_is_written_comes_back(tmp_path, evaluation):
    folder = tmp_path
    record.write(folder, evaluation)
    found = record.read(folder)
    assert list(found.results) == list(evaluation.results)
    assert replace(found, results=None, tensors=None) == replace(evaluation, results=None, tensors=None)
    assert found.tensors.keys() == evaluation.tensors.keys()
    assert all(torch.equal(found.tensors[key].nan_to_num(), t.nan_to_num()) for key, t in evaluation.tensors.items())


def test_a_cut_file_a_changed_bit_and_a_pipe_are_no_evaluation(tmp_path, evaluation):
    small = replace(evaluation, tensors={"truth/masked_mse": evaluation.tensors["truth/masked_mse"]})
    record.write(tmp_path, small)
    assert record.read(tmp_path) is not None
    for path in (tmp_path / record.JSON, tmp_path / record.TENSORS):
        whole = path.read_bytes()
        for at in range(0, len(whole), len(whole) // 30):
            for changed in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
                path.write_bytes(changed)
                found = record.read(tmp_path)
                if found is not None:  # a bit of the digest's own name
                    assert path.suffix == ".safetensors" and b'"digest"' not in changed, at
                    assert all(torch.equal(found.tensors[name], t) for name, t in small.tensors.items())
        path.unlink()
        os.mkfifo(path)
        assert record.read(tmp_path) is None
        path.unlink()
        path.write_bytes(whole)
    assert record.read(tmp_path) is not None


def test_a_page_without_a_key_or_with_another_type_is_no_evaluation(tmp_path, evaluation):
    """Also where its digest is right, as in a page that somebody wrote by hand."""
    record.write(tmp_path, replace(evaluation, tensors={}))
    path = tmp_path / record.JSON
    page = json.loads(path.read_text())
    del page["checksum"]
    path.write_text(as_json(page, {}))
    assert record.read(tmp_path) is not None
    wrong = [{key: value for key, value in page.items() if key != left_out} for left_out in page]
    wrong += [page | {key: 7.5} for key in page] + [page | {"more": 1}]
    for name in ("values", "rows", "columns"):
        line = page[name][0]
        wrong += [page | {name: [line | {key: {}}]} for key in line] + [page | {name: [{}]}, page | {name: [3]}]
    wrong += [page | {"protocol": page["protocol"] | {key: []}} for key in page["protocol"] if key != "image_size"]
    for each in wrong:
        path.write_text(as_json(each, {}))
        assert record.read(tmp_path) is None, [key for key in page if each.get(key) != page[key]]


def test_the_command_writes_its_record_and_prints_every_row(copy_of, run, capsys):
    folder = copy_of(run, "copy")
    for name in (record.JSON, record.TENSORS):
        (folder / name).unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert evaluate_run(measuring(run=str(folder), ratios=[0.5], images=4)) == 0
    out = capsys.readouterr().out
    found = record.read(folder)
    assert all(row.label in out for row in found.rows)
    assert "4 held-out images of photos, 16x16 pixels, patches of 4, 75% hidden" in out
    assert found.results.curves("run", "by_ratio").at == [0.5]
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before}
    assert after == before  # evaluating touches no other file of the run


def test_settings_that_an_older_program_did_not_have_are_at_their_defaults(copy_of, run):
    folder = copy_of(run, "older")
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
        text = (folder / "config.yaml").read_text().rpartition("# sha256")[0]
        (folder / "config.yaml").write_text(text.replace("decoder_width: 32", "decoder_width: 64"))


@pytest.mark.parametrize(
    "kind", ["no model", "half a model", "settings that are none", "half its settings", "another model"]
)
def test_a_run_that_cannot_be_read_is_named_in_one_line(copy_of, run, kind):
    folder = copy_of(run, "torn")
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


def test_an_unfinished_run_says_how_far_it_came(copy_of, run):
    folder = copy_of(run, "unfinished")
    text = (folder / "config.yaml").read_text().rpartition("# sha256")[0]
    (folder / "config.yaml").write_text(re.sub(r"(?m)^  steps: 3$(?=\n  training_images)", "  steps: 9", text))
    assert open_run(folder).unfinished == "unfinished: 3 of 9 steps"
    assert open_run(run).unfinished is None


def test_on_fields_with_a_known_answer_nothing_beats_bayes(tmp_path):
    run = trained(tmp_path, "fields", "loss=mse", "data.name=gaussian_field")
    found = evaluate(open_run(run), measuring(images=16), load_suite(measuring()))
    of = found.tensors
    for row in found.rows:
        assert of[f"{row.key}/excess_mse"].mean() > 0 or row.key in ("bayes", "truth"), row.key
    assert 1.5 < of["posterior/masked_mse"].mean() / of["bayes/masked_mse"].mean() < 2.5
    assert (of["bayes/excess_mse"] == 0).all()
    assert of["truth/excess_mse"].mean() < 0  # the truth is no reconstruction
    bands = found.results.curves("bayes", "bands").columns
    assert bands["exact_retention"] == pytest.approx(bands["retention"], rel=0.5)  # of 16 images
    assert all(a > b for a, b in pairwise(bands["exact_retention"]))  # the finer, the less can be known
