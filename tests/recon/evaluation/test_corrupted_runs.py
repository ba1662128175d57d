"""Runs that corrupt whole images: trained, drawn, evaluated under their own corruption, compared, read again."""

import json

import pytest
import torch

from losses import InvalidSetting
from recon.comparison.compare_runs import compare
from recon.data import create_dataset
from recon.evaluation.evaluate_run import described, evaluate
from recon.evaluation.evaluator import load_suite
from recon.loaded_run import open_run
from recon.model.formats import read
from recon.training.fitting import fitted_state
from tests.helpers.small_runs import measuring, once_for_all_workers, trained
from tests.recon.comparison.conftest import comparing

RUNS = {
    "noise": ["loss=mse", "masking.strategy=noise"],
    "other": ["loss=norm_mse", "masking.strategy=noise", "seed=1"],
    "components": ["loss=mse", "masking.strategy=components", "masking.ratio=0.2"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    def make(place):
        for name, words in RUNS.items():
            trained(place, name, *words)

    return once_for_all_workers(tmp_path_factory, "corrupted", make) / "runs"


@pytest.fixture(scope="module")
def suite():
    return load_suite(measuring())


@pytest.fixture(scope="module", params=["noise", "components"])
def found(request, runs, suite):
    return evaluate(open_run(runs / request.param), measuring(ratios=[0.5]), suite)


def test_a_run_stands_beside_its_input_and_the_truth(found):
    assert [(row.key, row.kind) for row in found.rows] == [("run", "run"), ("input", "simple"), ("truth", "truth")]
    assert found.tensors["masks"].all()
    assert found.results.number("truth", "masked_mse") == 0
    assert not [value for value in found.results if value.metric == "by_ratio" or value.variant == "by_ratio"]
    for value in found.results:
        assert value.value is not None or value.reason


def test_the_input_has_the_error_of_the_corruption(found):
    """Clamped and rounded to 8 bits, noise loses up to half of its square; components are hidden by their variance."""
    mse = found.results.number("input", "masked_mse")
    if found.protocol.masking == "components":
        assert found.protocol.ratio == 0.2 and 0 < mse < 0.3 * 0.5**2
    else:
        assert found.protocol.masking == "noise of 0.25" and 0.25**2 / 3 < mse < 0.25**2


def test_what_was_measured_is_said(found):
    words = {"noise": "noise of 0.25 on all pixels", "components": "20% of the variance hidden (components)"}
    assert words[found.protocol.masking.partition(" ")[0]] in described(found)


def test_an_evaluation_is_repeatable_and_depends_on_its_seed(runs, suite, found):
    name = found.protocol.masking.partition(" ")[0]
    again, other = (evaluate(open_run(runs / name), measuring(ratios=[], seed=seed), suite) for seed in (0, 1))
    assert again.digest == found.digest != other.digest
    for key in ("run/masked_mse", "input/masked_mse", "run/pictures"):
        assert torch.equal(again.tensors[key], found.tensors[key])
        assert not torch.equal(other.tensors[key], found.tensors[key])


def test_the_basis_is_in_the_model_s_file(runs):
    model = open_run(runs / "components").model
    source = create_dataset("photos", "train", None)
    for name, tensor in fitted_state(model.corruption, source, model, 0).items():
        assert torch.equal(getattr(model.corruption, name), tensor)


def test_runs_of_one_noise_are_compared_and_others_refused(runs, mse_run, tmp_path, monkeypatch, without_drawing):
    monkeypatch.chdir(tmp_path)
    assert compare(comparing(runs / "noise", runs / "other", out="report")) == 0
    comparison = json.loads((tmp_path / "report" / "comparison.json").read_text())
    assert comparison["protocol"]["masking"] == "noise of 0.25"
    assert "noise of 0.25 on all pixels" in (tmp_path / "report" / "index.html").read_text()
    for one, two in ((mse_run, runs / "noise"), (runs / "components", runs / "noise")):
        with pytest.raises(InvalidSetting, match=r"cannot be compared with .* masking noise of 0.25"):
            compare(comparing(one, two, out="other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["noise", "components"])
def test_as_a_checkpoint_it_is_a_masked_autoencoder_with_a_warning(runs, name):
    checkpoint, run = read(runs / name), open_run(runs / name)
    assert any(f"corrupted by {name}" in note for note in checkpoint.notes)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(checkpoint.model().encode(x), run.model.encode(x))
    assert not any(tensor.startswith("corruption.") for tensor in checkpoint.state)


def test_the_picture_shows_what_the_model_saw(runs, monkeypatch):
    assert all((runs / name / "reconstructions.png").is_file() for name in RUNS)
    lines = [json.loads(line) for line in (runs / "noise" / "metrics.jsonl").read_text().splitlines()]
    assert any("held_out/corrupted_psnr" in line for line in lines)
    assert not any("held_out/mean_colour_psnr" in line for line in lines)
