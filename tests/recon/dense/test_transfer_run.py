"""The command from end to end, on a few scenes: what it writes, what it does not do again, what it refuses."""

import json

import numpy as np
import pytest
import torch

from losses import InvalidSetting
from recon.dense import leaves, transfer_pictures, transfer_run
from recon.dense import transfer_results as results
from recon.dense.transfer_pictures import IMAGE, TRUTH
from recon.dense.transfer_results import SceneInfo, TransferRecord, TransferResult
from recon.dense.transfer_run import transfer
from recon.probing.probe_results import EncoderInfo
from recon.study_config import SceneData, Transferring, TransferSettings

RESULTS = "runs/bundled-results"


def drawn(folder) -> dict[str, list[np.ndarray]]:
    """The pictures that are kept with the transfer to segmentation, by row."""
    return transfer_pictures.read(folder, results.read(folder, "segmentation")).rows


@pytest.fixture
def few(tmp_path, monkeypatch):
    """A folder to work in, and few scenes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(leaves, "SCENES", {"train": 32, "val": 6})
    return tmp_path / RESULTS


def asked(task: str, again: bool = False, size: int = 48, **of_transfer) -> TransferSettings:
    quick = Transferring(**({"seeds": 2, "epochs": 1.0} | of_transfer))
    data = SceneData(image_size=size)
    return TransferSettings(
        run="bundled", task=task, device="cpu", precision="fp32", again=again, data=data, transfer=quick
    )


def test_segmentation_is_written_printed_and_not_done_again(few, capsys, monkeypatch):
    assert transfer(asked("segmentation")) == 0
    told = capsys.readouterr().out
    assert "linear, frozen, 1 epochs, miou" in told and "knn, pixel_accuracy" in told and "±" in told
    record = results.read(few, "segmentation")
    scores = {f"{e}/segmentation/{head}/{score}/{seed}" for e in ("run", "untrained") for seed in (0, 1)
              for head in ("knn", "linear/frozen, 1 epochs") for score in ("miou", "pixel_accuracy")}  # fmt: skip
    assert set(record.results) == scores and record.parts("run", "segmentation/knn/miou").shape == (2, 6)
    assert results.file_of(few, "segmentation", "png").stat().st_size > 1000 and not list(
        (few / "transfer/segmentation").iterdir()
    )
    # The same command trains nothing; one that asks for more trains what is missing.
    trained = []
    monkeypatch.setattr(transfer_run, "fit", lambda model, *_: trained.append(model))
    assert transfer(asked("segmentation")) == 0 and not trained
    assert results.read(few, "segmentation").results.keys() == record.results.keys()


def test_a_stopped_command_goes_on(few, capsys, monkeypatch):
    """And keeps the pictures that were drawn before it was stopped."""
    fit = transfer_run.fit
    monkeypatch.setattr(transfer_run, "fit", lambda *_: 15)
    assert transfer(asked("segmentation", heads="knn+linear", seeds=1)) == 143
    assert "the same command goes on" in capsys.readouterr().out
    before = drawn(few)
    assert before.keys() == {IMAGE, TRUTH, "run/knn", "untrained/knn"} and {len(row) for row in before.values()} == {6}
    monkeypatch.setattr(transfer_run, "fit", fit)
    assert transfer(asked("segmentation", heads="knn+linear", seeds=1)) == 0
    assert len(results.read(few, "segmentation").results) == 8
    after = drawn(few)
    assert list(after.keys() - before.keys()) and len(after) == 6
    assert all(np.array_equal(before[row], after[row]) for row in before)


@pytest.mark.slow
def test_detection_and_upernet_have_scores_of_their_own(few):
    assert transfer(asked("detection", seeds=1, pyramid="four_block")) == 0
    assert transfer(asked("segmentation", seeds=1, heads="upernet", frozen=True, size=64)) == 0  # of another size too
    tasks = ("detection", "segmentation")
    found = {result.question for task in tasks for result in results.read(few, task).results.values()}
    scores, pixels = ("box_ap", "box_ap50", "mask_ap", "mask_ap50"), ("miou", "pixel_accuracy")
    assert found == {
        *(f"detection/mask_rcnn/fine-tuned, 1 epochs, four-block pyramid/{score}" for score in scores),
        *(f"segmentation/upernet/frozen, 1 epochs/{score}" for score in pixels),
    }


def test_further_seeds_leave_the_pictures_and_another_size_is_not_mixed(few):
    transfer(asked("segmentation", heads="knn", seeds=1, controls=False))
    files = [results.file_of(few, "segmentation", ending) for ending in ("pictures.safetensors", "png")]
    before = [file.read_bytes() for file in files]
    transfer(asked("segmentation", heads="knn", seeds=2, controls=False))
    assert [file.read_bytes() for file in files] == before
    with pytest.raises(InvalidSetting, match="at 48 pixels; again=true"):
        transfer(asked("segmentation", heads="knn", seeds=1, size=64))
    assert transfer(asked("segmentation", heads="knn", seeds=1, size=64, again=True, controls=False)) == 0
    assert results.read(few, "segmentation").data.image_size == 64
    assert files[0].read_bytes() != before[0]


@pytest.mark.parametrize(
    "settings, words",
    [
        (asked("detection", heads="upernet"), "detection has no head 'upernet'"),
        (asked("segmentation", heads="liner"), "did you mean 'linear'"),
        (TransferSettings(), "give what to transfer"),
        (TransferSettings(run="bundled", data=SceneData("coco", "nowhere")), "coco"),
        (asked("segmentation", heads="linear", recipe="paper", epochs=0.0), "transfer.epochs"),
    ],
)
def test_what_cannot_be_done_is_one_line(few, settings, words):
    with pytest.raises(InvalidSetting) as error:
        transfer(settings)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not few.exists()


def test_too_few_scenes_for_a_batch_are_one_line(few, monkeypatch):
    monkeypatch.setattr(leaves, "SCENES", {"train": 4, "val": 6})
    with pytest.raises(InvalidSetting, match="batches of 16, and there are 4 training images"):
        transfer(asked("segmentation", heads="linear"))


# ---- the files


def record_of(encoder: str = "a", digest: str = "d") -> TransferRecord:
    parts = torch.linspace(0, 1, 5)
    made = [TransferResult("run", "segmentation", "knn", "", "miou", seed, parts + seed) for seed in (0, 1)]
    info = {"run": EncoderInfo("run", encoder)}
    data = SceneInfo("leaves/val", digest, 7, 5, ["x", "y"], 96)
    return TransferRecord("run", info, data, {"task": "segmentation"}).with_results(made, {"epochs": 1.0})


def test_records_are_read_as_they_were_written(tmp_path):
    results.write(tmp_path, record_of())
    found = results.read(tmp_path, "segmentation")
    assert (
        found.parts("run", "segmentation/knn/miou").tolist()
        == record_of().parts("run", "segmentation/knn/miou").tolist()
    )
    assert found.estimate("run", "segmentation/knn/miou").mean == pytest.approx(1.0)
    assert found.recipes and found.conditions == record_of().conditions
    assert results.read(tmp_path / "none", "segmentation") is None


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_a_changed_byte_is_noticed(tmp_path, ending):
    results.write(tmp_path, record_of())
    file = results.file_of(tmp_path, "segmentation", ending)
    content = file.read_bytes()
    file.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    with pytest.raises(InvalidSetting, match="again=true") as error:
        results.read(tmp_path, "segmentation")
    assert "\n" not in str(error.value)


def test_results_of_an_encoder_that_has_changed_are_left():
    fresh = TransferRecord("run", record_of().encoders, record_of().data, {})
    assert not results.joined(fresh, record_of("b")).results
    assert results.joined(fresh, record_of()).results.keys() == record_of().results.keys()
    with pytest.raises(InvalidSetting, match="again=true"):
        results.joined(record_of(digest="e"), record_of())


def test_a_later_format_is_one_line(tmp_path):
    results.write(tmp_path, record_of())
    file = results.file_of(tmp_path, "segmentation", "json")
    page = json.loads(file.read_text())
    file.write_text(json.dumps(page | {"format": "recon transfer 9"}))
    with pytest.raises(InvalidSetting, match="again=true"):
        results.read(tmp_path, "segmentation")
