"""A run as a folder for transformers: its predictions are the run's, and its card says what the run's files say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from losses.reconstruction import unpatchify
from recon.convert import ConvertSettings, convert
from recon.evaluation import results
from recon.loaded_run import open_run
from recon.model.formats import read
from recon.model_card import code, model_card, plain
from recon.probing import probe_results
from recon.probing.features import ProbedEncoder
from recon.probing.probe_results import DataInfo, EncoderInfo, ProbeRecord, ProbeResult


@pytest.fixture(scope="module")
def converted(mse_run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "hf"
    assert convert(ConvertSettings(input=str(mse_run), out=str(out), format="transformers")) == 0
    return out


def test_the_folder_has_what_transformers_reads_and_comes_back_to_the_bit(converted, mse_run):
    names = {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"}
    assert {path.name for path in converted.iterdir()} == names
    config = json.loads((converted / "config.json").read_text())
    assert (config["mask_ratio"], config["norm_pix_loss"], config["architectures"]) == (
        0.75,
        False,
        ["ViTMAEForPreTraining"],
    )
    found, run = read(converted), open_run(mse_run)
    state = run.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state.items())
    assert (found.mean, found.mask_ratio) == (tuple(run.resolved["mean"]), 0.75)


@pytest.mark.peers
@torch.no_grad()
def test_transformers_predicts_the_pixels_that_the_run_predicts(converted, mse_run):
    transformers = pytest.importorskip("transformers")
    theirs, report = transformers.ViTMAEForPreTraining.from_pretrained(converted, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model = open_run(mse_run).model
    draw = torch.Generator().manual_seed(0)
    images, noise = torch.rand(3, 3, 16, 16, generator=draw), torch.rand(3, model.patches, generator=draw)
    processor = transformers.AutoImageProcessor.from_pretrained(converted)
    bytes_ = (images * 255).round().to(torch.uint8)
    pixels = processor(list(bytes_), return_tensors="pt")["pixel_values"]
    ours = model(bytes_.float() / 255, noise=noise)
    found = theirs(pixels, noise=noise)
    assert torch.equal(found.mask.bool(), ours.mask)
    image = unpatchify(found.logits, ours.grid) * model.std.view(3, 1, 1) + model.mean.view(3, 1, 1)
    assert (image - ours.predicted_image).abs().max() < 1e-5
    assert image.std() > 0.01


def test_the_card_says_what_the_evaluation_says_and_the_hub_reads_its_head(norm_mse_run, tmp_path):
    run, evaluation = open_run(norm_mse_run), results.read(norm_mse_run)
    text = model_card(run, tmp_path / "out", ["the patch statistics, without which ..."])
    card = ModelCard(text)
    assert (card.data.license, card.data.library_name) == ("unknown", "transformers")
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    expected = {column.name: evaluation.results.number("run", column.name) for column in evaluation.columns}
    assert found == {name: value for name, value in expected.items() if value is not None}
    row = next(line for line in text.splitlines() if line.startswith("| masked_psnr |"))
    value = evaluation.results.get("run", "masked_psnr")
    assert f"| {value.value:.2f} ±" in row or f"| {value.value:.3f} ±" in row
    for said in (
        "norm_mse",
        "photos",
        "python -m recon.pretrain 'name=\"<script>two\"'",
        "`random`",
        "12 held-out images",
    ):
        assert said in text
    assert (
        "which leaks the answer" in text
        and "no place for it: the patch statistics" in text
        and "normalised by their own mean" in text
    )
    assert "\n# \\<script\\>two\n" in text
    assert evaluation.caveat and plain(evaluation.caveat) in text


def test_probes_of_this_encoder_are_in_the_card_and_those_of_another_are_not(mse_run, copy_of):
    folder = copy_of(mse_run)
    run, right = open_run(folder), torch.arange(40).view(2, 20) % 4 > 0
    known = {"run": EncoderInfo("one", ProbedEncoder("run", "one", run.model).checksum)}
    data = DataInfo("folder", "12ab", 9, 20, ["a", "b"], [16, 16])
    record = ProbeRecord("one", known, data, [0, 1], {"precision": "fp32"}, [])
    asked = [("run", "linear", "mean/4"), ("pixels", "knn", "pixels")]
    record = record.with_results([ProbeResult(encoder, probe, "", on, 1.0, right) for encoder, probe, on in asked])
    probe_results.write(folder, record)
    text = model_card(run, Path("out"), [])
    (row,) = [line for line in text.splitlines() if line.startswith(("| linear", "| knn"))]
    assert row.startswith("| linear, mean of the patch tokens of block 4 | 100% | 0.750 ±")
    probe_results.write(folder, replace(record, encoders={"run": EncoderInfo("one", "00ff")}))
    assert "Probes on" not in model_card(run, Path("out"), [])


def test_what_a_run_s_own_network_measured_is_marked(mse_run, tmp_path, monkeypatch):
    evaluation = results.read(mse_run)
    rows = [replace(row, own=("vgg19",)) if row.kind == "run" else row for row in evaluation.rows]
    monkeypatch.setattr(results, "read", lambda folder: replace(evaluation, rows=rows))
    text = model_card(open_run(mse_run), tmp_path, [])
    marked = [line for line in text.splitlines() if line.startswith("| ") and "* |" in line]
    assert [line.split()[1] for line in marked] == ["vgg19"] and r"\* by a network" in text


def test_results_of_another_model_are_not_in_the_card(mse_run, copy_of):
    folder = copy_of(mse_run)
    run = open_run(folder)
    assert "masked_psnr" in model_card(run, Path("out"), [])
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:8] + weights[8:].replace(b'"step":"3"', b'"step":"2"', 1))
    other = model_card(run.__class__(**vars(run) | {"sha256": "0" * 64}), Path("out"), [])
    assert "masked_psnr" not in other and "It has not been evaluated." in other


def test_private_addresses_and_markup_stay_out(mse_run, copy_of):
    run = open_run(copy_of(mse_run, "a|b `c` <script>"))
    run.settings.data.root = "https://me:password@host/"
    text = model_card(run, Path("out"), [])
    head, body = text.split("\n---\n", 1)
    assert yaml.safe_load(head.removeprefix("---\n"))["model-index"][0]["name"] == "a|b `c` <script>"
    assert "password" not in text and "data.root=PATH" in text
    assert r"# a\|b \`c\` \<script\>" in body
    assert plain("a\nb\x1b") == r"a\\nb\\x1b" and code("a`b\n") == r"`a'b\n`"
