"""The calibration of sharpness metrics: known blur is told, and what noise does is seen."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from experiments import calibrate_metrics as module
from experiments.calibrate_metrics import (
    BLUR,
    NAMES,
    NOISE,
    Settings,
    correlation,
    degraded,
    main,
    measure,
    passes_at,
    photographs,
    relative_to_truth,
    within,
)
from losses import InvalidSetting


@pytest.fixture(scope="module")
def scores():
    return measure(photographs(Settings(images=4, image_size=64, patch_size=16)), 16, 0)


def test_correlation_is_one_where_sharper_always_scores_sharper():
    falling = -np.array(BLUR)[:, None] * np.array([1.0, 2.0])
    assert within(falling, "tenengrad") == 1 and within(-falling, "tenengrad") == -1
    assert within(-falling, "blur_effect") == 1  # whose low scores are sharp
    assert correlation(falling + np.array([0.0, 100.0]), "tenengrad") < 0.8  # another image has more texture
    true = np.array([1.0, 2.0])
    assert correlation(relative_to_truth(((1 + falling / 9) * true)[None], "tenengrad")[0], "tenengrad") < 1
    assert np.isnan(correlation(np.zeros((len(BLUR), 2)), "tenengrad"))


def test_a_width_passes_for_sharp_at_the_first_noise_that_scores_as_sharp():
    found = np.zeros((len(NOISE), len(BLUR), 3))
    found[:, :, :] = np.array(NOISE)[:, None, None] - 3.0 * np.array(BLUR)[:, None]
    assert passes_at(found, "tenengrad", 1.0) == 4 and passes_at(found, "tenengrad", 2.0) == 8
    assert passes_at(found, "blur_effect", 1.0) == 0
    blurred = np.array(BLUR)[:, None] > 0
    assert passes_at(found - 100 * blurred, "tenengrad", 4.0) is None


def test_images_are_blurred_first_and_get_the_same_noise_at_every_width():
    images = photographs(Settings(images=1, image_size=64))
    sharp, blurred = (degraded(images, blur, 0) for blur in (0, 2))
    assert torch.equal(sharp, images) and (blurred * 255 - (blurred * 255).round()).abs().max() < 1e-4
    expected = gaussian_filter(images[0, 1].double().numpy(), 2, mode="reflect")
    assert abs(blurred[0, 1].numpy() - expected).max() <= 0.5 / 255 + 1e-6
    grey = torch.full((1, 3, 64, 64), 0.5)
    assert degraded(grey, 0, 8).std().item() * 255 == pytest.approx(8, rel=0.02)
    assert torch.equal(degraded(grey, 0, 8), degraded(grey, 3, 8))


def test_on_photographs_the_gradient_tells_blur_and_noise_is_not_coherent(scores):
    for name in ("tenengrad", "brenner", "blur_effect", "retention", "coherent_retention"):
        assert within(scores[name][0], name) == 1, name
    assert abs(within(scores["seam_ratio"][0], "seam_ratio")) < 0.9  # not a metric of sharpness
    assert passes_at(scores["variance_of_laplacian"], "variance_of_laplacian", 2.0) is not None
    assert passes_at(scores["coherent_retention"], "coherent_retention", 1.0) is None
    raised = scores["coherent_retention"][-1, 0] / scores["coherent_retention"][0, 0]
    assert scores["retention"][-1, 0].min() > 1.5 and raised.max() < 1.2


def test_the_command_writes_its_table_figure_and_every_number(tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "pictures", tmp_path / "out"
    (folder / "below").mkdir(parents=True)
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "below" / f"{i}.png")
    for name in ("BLUR", "NOISE"):
        monkeypatch.setattr(module, name, getattr(module, name)[:1] + {"BLUR": (1.0, 2.0, 4.0), "NOISE": (8.0,)}[name])
    main([f"data={folder}", "images=2", "image_size=32", "patch_size=16", f"out={out}"])
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and all(f"`{name}`" in table for name in NAMES)
    with (out / "scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(NAMES) * 2 * 4 * 2
    assert (out / "calibration.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=nowhere"], "nowhere"),
        (["image=3"], "image"),
        (["images=many"], "many"),
        (["x"], "x"),
        (["image_size=100"], "image_size=100"),
        (["data=."], "no.png"),
    ],
)
def test_what_is_wrong_is_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(InvalidSetting, match=said) as error:
        main(words)
    assert "\n" not in str(error.value)
