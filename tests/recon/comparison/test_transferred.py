"""Detection and segmentation in a comparison: columns, control rows, paired differences, the printed table."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from recon.comparison.differences import with_decisions
from recon.comparison.transferred import GROUP, with_transfers
from recon.dense.transfer_results import SceneInfo, TransferRecord, TransferResult
from recon.probing.probe_results import EncoderInfo
from recon.result_table import Comparison, Results, RowInfo
from recon.scoreboard import table

IMAGES = 200


def record(run: str, level: float, noise: torch.Tensor, digest: str = "d") -> TransferRecord:
    """Of three seeds; `level`: the mean of its mIoU. `noise` (n,) is what images have in common."""
    generator = torch.Generator().manual_seed(len(run))
    data = SceneInfo("leaves/val", digest, 300, IMAGES, ["flat", "striped"], 96)
    encoders = {"run": EncoderInfo(run, run * 8), "untrained": EncoderInfo("untrained", "same encoder")}

    def results(encoder: str, at: float) -> list[TransferResult]:
        scores = {"miou": at, "pixel_accuracy": at + 0.1}
        return [
            TransferResult(encoder, "segmentation", "linear", "frozen, 3 epochs", score, seed,
                           mean + noise + 0.01 * torch.randn(IMAGES, generator=generator))
            for score, mean in scores.items() for seed in range(3)
        ]  # fmt: skip

    return TransferRecord(run, encoders, data, {}).with_results(
        results("run", level) + results("untrained", 0.2), {"epochs": 3.0}
    )


@pytest.fixture
def plain() -> Comparison:
    rows = [RowInfo("run/a", "a", "run"), RowInfo("run/b", "b", "run"), RowInfo("mean", "mean", "simple"),
            RowInfo("truth", "the truth", "truth")]  # fmt: skip
    protocol = SimpleNamespace()
    return Comparison("", "", protocol, "", None, [], rows, Results(), {}, [])


@pytest.fixture
def records() -> dict[str, TransferRecord]:
    noise = 0.3 * torch.randn(IMAGES, generator=torch.Generator().manual_seed(9))
    return {"run/a": record("a", 0.5, noise), "run/b": record("bb", 0.55, noise)}


NAME = "miou_linear_frozen_3_epochs"


def test_runs_and_the_untrained_encoder_have_the_score(plain, records):
    found = with_transfers(plain, records)
    assert [(c.group, c.name, c.title) for c in found.columns] == [(GROUP, NAME, "mIoU linear")]
    assert [row.key for row in found.rows] == ["run/a", "run/b", "mean", "untrained/same encoder"[:22], "truth"]
    value = found.results.get("run/a", NAME)
    estimate = records["run/a"].estimate("run", "segmentation/linear/frozen, 3 epochs/miou")
    assert value.value == pytest.approx(estimate.mean) and value.low == pytest.approx(estimate.low)
    assert found.results.get("mean", NAME).reason == "has no encoder"
    assert "mIoU linear" in table(found.rows, found.columns, found.results)


def test_differences_are_paired_over_images(plain, records):
    """What the images have in common, which is most of the spread, is in neither the gap nor its interval."""
    found = with_decisions(with_transfers(plain, records))
    (gap,) = found.differences
    assert gap.value == pytest.approx(-0.05, abs=0.01) and gap.high < 0 and gap.high - gap.low < 0.02
    assert found.best[NAME] == ["run/b"]
    value = found.results.get("run/a", NAME)
    assert value.high - value.low > 0.05


def test_transfers_to_other_scenes_are_not_mixed(plain, records):
    other = replace(records["run/b"], data=replace(records["run/b"].data, digest="e"))
    found = with_transfers(plain, {"run/a": records["run/a"], "run/b": other})
    assert found.results.get("run/b", NAME).reason == "transferred to other scenes" and not found.differences


def test_without_transfers_nothing_changes(plain):
    assert with_transfers(plain, {}) == plain
