"""Pictures of transfers in a comparison: which panels the page has, in which order, and what they embed."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from recon.comparison.compare_runs import compare
from recon.comparison.transfer_panels import transfer_panels
from recon.comparison.transferred import with_transfers
from recon.dense import transfer_pictures, transfer_results
from recon.dense.transfer_pictures import IMAGE, TRUTH, Pictures, row_of
from recon.dense.transfer_results import SceneInfo, TransferRecord, TransferResult
from recon.loaded_run import open_run
from recon.probing.features import ProbedEncoder
from recon.probing.probe_results import EncoderInfo
from recon.report.page import render
from recon.report.pictures import PanelSet
from tests.recon.comparison.conftest import comparing
from tests.recon.report.comparison import pictures as reconstructions
from tests.recon.report.comparison import typed

WAYS = [("linear", "frozen, 3 epochs"), ("knn", "")]
HOW = ["a linear layer on frozen tokens, frozen, 3 epochs", "the 20 nearest training patches"]
RUNS = ["runs/mse", "runs/adversarial"]
UNTRAINED = "untrained/same encoder"
IMAGES = 3


def record(run: str, digest: str = "d", checksum: str | None = None, task: str = "segmentation") -> TransferRecord:
    """Of both ways, with the untrained encoder, which the runs share."""
    data = SceneInfo("leaves/val", digest, 300, 40, ["flat", "striped"], 96)
    encoders = {"run": EncoderInfo(run, checksum or run), "untrained": EncoderInfo("untrained", "same encoder")}
    made = [
        TransferResult(encoder, task, head, variant, "miou", 0, torch.linspace(0.2, 0.4, 40))
        for encoder in encoders
        for head, variant in WAYS
    ]
    return TransferRecord(run, encoders, data, {"task": task}).with_results(made, {})


def drawn(seed: int, *encoders: str, size: tuple[int, int] = (16, 24)) -> Pictures:
    """Other noise in every picture, but for the images and the truth."""

    def noise(seed: int) -> list[np.ndarray]:
        return list(np.random.default_rng(seed).integers(0, 256, (IMAGES, *size, 3), dtype=np.uint8))

    rows = [row_of(encoder, *way) for way in WAYS for encoder in encoders or ("run", "untrained")]
    return Pictures({IMAGE: noise(1), TRUTH: noise(2)} | {row: noise(seed + i) for i, row in enumerate(rows)})


@pytest.fixture
def records() -> dict[str, TransferRecord]:
    return {key: record(key) for key in RUNS}


@pytest.fixture
def pictures() -> dict[str, Pictures]:
    return {key: drawn(10 * (i + 1)) for i, key in enumerate(RUNS)}


def set_of(records: dict[str, TransferRecord], pictures: dict[str, Pictures]) -> PanelSet | None:
    return transfer_panels(with_transfers(typed(), records).rows, records, pictures)


def decoded(uris: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))) for uri in uris])


def embedded(html: str, name: str) -> dict:
    return json.loads(re.search(rf'id="{name}-data">(.*?)</script>', html)[1])


def test_panels_are_image_truth_and_for_each_head_every_run_and_the_untrained_encoder(records, pictures):
    found = set_of(records, pictures)
    assert [(panel.label, panel.note) for panel in found.panels] == [
        ("image", None),
        ("truth", None),
        *((f"{name}, {how}", how) for how in HOW for name in ("mse", "adversarial", "untrained encoder")),
    ]
    assert [panel.key for panel in found.panels] == [None, "truth", *[*RUNS, UNTRAINED] * 2]
    assert (found.name, found.title) == ("transfer-segmentation", "Transfer to segmentation")
    assert len(found.names) == len(set(found.names)) == IMAGES


def test_the_page_embeds_every_picture_to_the_bit(records, pictures, monkeypatch):
    monkeypatch.setattr("recon.report.page.plots", lambda comparison: [])
    comparison = with_transfers(typed(), records)
    html = render(comparison, reconstructions(), [transfer_panels(comparison.rows, records, pictures)])
    data = embedded(html, "transfer-segmentation")
    one, other = (pictures[key].rows for key in RUNS)
    expected = [one[IMAGE], one[TRUTH]]
    for way in WAYS:
        expected += [one[row_of("run", *way)], other[row_of("run", *way)], one[row_of("untrained", *way)]]
    assert data["predictions"][0] is None and len(data["predictions"]) == len(expected)
    for uris, images in zip([data["truth"], *data["predictions"][1:]], expected, strict=True):
        found = decoded(uris)
        assert found.shape == (IMAGES, 24, 24, 3) and np.array_equal(found[:, 4:20], images)
        assert (found[:, :4] == 255).all() and (found[:, 20:] == 255).all()
    section = html[html.index('<section id="transfer-segmentation"') : html.index('<section id="plots"')]
    assert section.count("<figure ") == len(expected) and "find in the first 3 of 40 held-out images" in section
    assert "the colour of its class (blue: flat, orange: striped)" in section


def test_how_detections_are_drawn_is_said():
    records = {"runs/mse": record("a", task="detection")}
    assert (
        "most confident detections are drawn, as many as there are objects"
        in set_of(records, {"runs/mse": drawn(5)}).about
    )


def test_runs_that_were_transferred_to_other_scenes_have_no_panel(records, pictures):
    data = records[RUNS[1]].data
    for other in (replace(data, digest="e"), replace(data, image_size=64)):
        found = set_of(records | {RUNS[1]: replace(records[RUNS[1]], data=other)}, pictures)
        assert {panel.key for panel in found.panels} == {None, "truth", "runs/mse", UNTRAINED}


@pytest.mark.parametrize("run", RUNS)
def test_an_untrained_encoder_that_one_run_has_drawn_has_its_panels(records, pictures, run):
    labels = [panel.label for panel in set_of(records, pictures | {run: drawn(10, "run")}).panels]
    assert labels == [panel.label for panel in set_of(records, pictures).panels]


def test_what_was_not_drawn_has_no_panel(records, pictures):
    for lacking in (Pictures(), None):
        rest = {key: found for key, found in (pictures | {RUNS[0]: lacking}).items() if found is not None}
        assert {panel.key for panel in set_of(records, rest).panels} == {None, "truth", RUNS[1], UNTRAINED}


def test_without_pictures_or_transfers_the_page_has_no_section(records, monkeypatch):
    monkeypatch.setattr("recon.report.page.plots", lambda comparison: [])
    assert set_of(records, {key: Pictures() for key in records}) is None
    assert set_of({}, {}) is None
    assert "transfer-" not in render(typed(), reconstructions())


def test_a_comparison_shows_the_pictures_in_the_runs_folders_and_leaves_out_a_damaged_file(
    tmp_path, copy_of, one, two, without_drawing, capsys
):
    runs, out = [copy_of(one), copy_of(two)], tmp_path / "report"
    for number, run in enumerate(runs):
        loaded = open_run(run)
        of = record(run.name, checksum=ProbedEncoder("run", run.name, loaded.model).checksum)
        transfer_results.write(run, of)
        transfer_pictures.write(run, of, drawn(10 * number))
    assert compare(comparing(*runs, out=str(out))) == 0
    html = (out / "index.html").read_text()
    assert np.array_equal(decoded(embedded(html, "transfer-segmentation")["truth"])[:, 4:20], drawn(0).rows[IMAGE])
    section = html[html.index('<section id="transfer-segmentation"') : html.index('<section id="plots"')]
    assert section.count("<figure ") == 8 and "<script>two" not in section and "transfer-detection" not in html
    capsys.readouterr()
    file = transfer_results.file_of(runs[0], "segmentation", "pictures.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert compare(comparing(*runs, out=str(out))) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and str(file) in told[0] and "remove it" in told[0]
    assert len(embedded((out / "index.html").read_text(), "transfer-segmentation")["predictions"]) == 6
