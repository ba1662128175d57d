"""Figures of a study: the Pareto front by its definition, and which are drawn."""

import pytest
import torch
from matplotlib.axes import Axes

from experiments.study.definition import Study
from experiments.study.figures import pareto_front, reach, sign, write_figures
from experiments.study.measured import Measurements


@pytest.mark.parametrize("across", [1, -1])
@pytest.mark.parametrize("up", [1, -1])
def test_no_point_is_better_than_one_of_the_front_and_each_other_one_has_a_better(across, up):
    points = [(x, y) for x, y in torch.randint(9, (20, 2), generator=torch.Generator().manual_seed(0)).tolist()]

    def better(a, b):
        """Nowhere worse, and somewhere better."""
        gains = across * (a[0] - b[0]), up * (a[1] - b[1])
        return min(gains) >= 0 and max(gains) > 0

    front = pareto_front(points, across, up)
    assert set(front) == {p for p in points if not any(better(q, p) for q in points)}
    assert len(front) == len(set(front))


def test_less_of_a_distance_is_better_and_more_of_a_probe():
    assert [sign(metric) for metric in ("masked_psnr", "lpips", "kid", "detail", "linear/mean/4/1")] == [
        1,
        -1,
        -1,
        1,
        1,
    ]


def test_bars_are_the_intervals_of_differences(tmp_path, monkeypatch):
    """Of what is compared alone: the reference has none, and neither has a row of other images."""
    noise = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0))
    values = {
        row: {"masked_psnr": 10 * noise[0] + noise[i], "lpips": noise[i]} for i, row in enumerate(("mse", "a", "b"))
    }
    found = Measurements(values, {row: [0, 1] for row in values}, images={"mse": "one", "a": "one", "b": "other"})
    study = Study("", {}, {}, [0, 1], "mse", {"masked_psnr": "PSNR", "lpips": "LPIPS"}, figure=["masked_psnr", "lpips"])
    differences, drawn = found.differences(study.measured, "mse"), {}
    monkeypatch.setattr(Axes, "errorbar", lambda *given, label, **style: drawn.update({label: given[1:]}))
    assert write_figures(tmp_path, study, found, differences) == ["figure.png"]
    x, y, up, across = drawn["a"]
    assert [x, y] == pytest.approx([values["a"][metric].mean().item() for metric in study.measured])
    assert across == reach([differences["a", "masked_psnr"]]) and up == reach([differences["a", "lpips"]])
    assert drawn["mse"][2:] == drawn["b"][2:] == (None, None)


def test_a_study_has_the_figures_that_it_asks_for(tmp_path):
    values = {row: {"masked_psnr": torch.rand(2, 9), "lpips": torch.rand(2, 9)} for row in ("mse", "a", "b")}
    found = Measurements(values, {row: [0, 1] for row in values}, {"truth": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)})
    plain = Study("", {}, {row: {} for row in values}, [0, 1], "mse", {"masked_psnr": "PSNR", "lpips": "LPIPS"})
    assert write_figures(tmp_path, plain, found, {}) == ["reconstructions.png"]
    plain.figure.extend(("masked_psnr", "lpips"))
    plain.curves["dose"] = {"a": 0.1, "b": 1.0}
    differences = found.differences(plain.measured, "mse")
    assert write_figures(tmp_path, plain, found, differences) == ["reconstructions.png", "figure.png", "curves.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"reconstructions.png", "figure.png", "curves.png"}
