"""A run that predicts a distribution: a row for every rendering, scores of its draws, and what cannot be asked."""

import math
from types import SimpleNamespace

import pytest
import torch

from losses import InvalidSetting, MixtureHead, Reconstruction
from losses.posterior import PrincipalComponents
from recon.evaluation.evaluate_run import evaluate, evaluate_run
from recon.evaluation.evaluator import MetricSuite
from recon.evaluation.rows import Distribution
from recon.loaded_run import open_run
from recon.metrics import METRICS
from tests.helpers.small_runs import measuring, trained

# The sides of a U-Net's images are multiples of 8.
FLOW = ["loss=flow", "data.image_size=16", "model.patch_size=4", "losses.flow.steps=3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("distributions")


@pytest.fixture(scope="module")
def flow(place):
    return trained(place, "flow", *FLOW)


@pytest.fixture(scope="module")
def mixture(place):
    return trained(place, "mixture", "loss=mixture", "losses.mixture.gaussians=3")


@pytest.fixture(scope="module")
def evaluation_of(evaluation):
    """Evaluates a run without networks; the rows of simple reconstructions are those of another run's evaluation."""

    def evaluated(run, **changes):
        return evaluate(open_run(run), measuring(**changes), MetricSuite(METRICS, None, {}, {}, []), evaluation)

    return evaluated


@pytest.fixture(scope="module")
def of_flow(flow, evaluation_of):
    return evaluation_of(flow, draws=3)


@pytest.fixture(scope="module")
def of_mixture(mixture, evaluation_of):
    return evaluation_of(mixture, draws=3)


def labels(evaluation) -> dict[str, str]:
    return {row.key: row.label for row in evaluation.rows if row.kind == "run"}


def test_every_rendering_has_a_row_and_so_has_the_mean_of_the_draws(of_flow, of_mixture):
    assert labels(of_flow) == {"run": "flow (mean)", "sample": "flow (sample)", "draws": "flow (mean of 3 draws)"}
    assert list(labels(of_mixture)) == ["run", "mode", "sample", "draws"]


def test_one_rendering_and_one_draw_are_one_row(flow, mixture, evaluation_of):
    assert labels(evaluation_of(flow, render="sample", draws=1)) == {"run": "flow (sample)"}
    assert labels(evaluation_of(mixture, render="mode", draws=1)) == {"run": "mixture (mode)"}


def test_what_a_head_does_not_have_is_refused_in_one_line(flow, run, evaluation_of):
    with pytest.raises(InvalidSetting, match=r"^render=mode: flow predicts a flow, which has mean or sample$"):
        evaluation_of(flow, render="mode")
    with pytest.raises(InvalidSetting, match=r"^render=sample: <script>two has one answer to each image"):
        evaluate_run(measuring(run=str(run), render="sample"))
    with pytest.raises(InvalidSetting, match=r"^render=median: choose mean or mode or sample"):
        evaluation_of(flow, render="median")
    with pytest.raises(InvalidSetting, match=r"^draws=0 must be at least 1"):
        evaluation_of(flow, draws=0)


def test_draws_differ_and_visible_pixels_are_kept_in_all_of_them(of_flow, of_mixture):
    for evaluation in (of_flow, of_mixture):
        drawn = evaluation.tensors["draws/draws"]
        assert drawn.shape[:2] == (3, 3) and drawn.dtype == torch.uint8
        assert torch.equal(drawn[:, 0], evaluation.tensors["sample/pictures"])
        assert (drawn[:, 0] != drawn[:, 1]).any(dim=(1, 2, 3)).all()


def test_the_mean_of_the_draws_is_their_mean(of_mixture):
    drawn, mean = (of_mixture.tensors[f"draws/{name}"] for name in ("draws", "pictures"))
    assert (drawn.float().mean(1) - mean.float()).abs().max() <= 1  # both were rounded


def test_one_answer_is_scored_by_its_absolute_error_and_draws_by_less(of_mixture):
    """A fair score of draws is the first draw's error less half of what draws differ by."""
    crps = {row.key: of_mixture.tensors[f"{row.key}/crps"].mean().item() for row in of_mixture.rows}
    assert crps["truth"] == 0 < crps["draws"] < crps["sample"]
    assert "run/bits_per_dim" not in of_mixture.tensors


def test_only_a_density_has_a_likelihood(of_flow, of_mixture):
    assert "draws/bits_per_dim" not in of_flow.tensors
    assert of_mixture.tensors["draws/bits_per_dim"].isfinite().all()


def test_bits_are_those_of_a_gaussian_over_levels():
    """Of a deviation of s levels around the truth: log2(s sqrt(2 pi)) bits a value, whatever the standardisation."""
    std, levels = torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1), 100.0  # far above the floor
    head = MixtureHead(gaussians=1, components=12, basis=PrincipalComponents.identity(12))
    image, mask = torch.rand(2, 3, 8, 8), torch.arange(16).expand(2, -1) < 12
    width = (levels / (255 * std.flatten())).repeat(4).log()  # pixels, then channels
    r = Reconstruction(torch.zeros(2, 16, 0), image, mask, std=std.flatten())
    parameters = torch.cat([r.true_pixels, torch.zeros(2, 16, 13), width.expand(2, 16, -1)], dim=-1)

    def model(truth, mask):
        return Reconstruction(parameters, truth, mask, head, std=std.flatten())

    model.std = std
    found = Distribution(model, draws=1).bits_per_dim(image, mask)
    expected = math.log2(levels * math.sqrt(2 * math.pi))
    torch.testing.assert_close(found, torch.full((2,), expected, dtype=torch.float64), rtol=0, atol=0.02)


def test_the_blend_begins_at_the_mean_and_ends_at_a_draw(of_flow):
    results = of_flow.results
    blend = results.curves("draws", "blends").columns
    for name in ("mse", "w2"):
        ends = [results.number(key, f"luma_{name}") for key in ("run", "sample")]
        assert [blend[name][0], blend[name][-1]] == pytest.approx(ends, rel=1e-5, abs=1e-7)
        assert results.number("truth", f"luma_{name}") == pytest.approx(0, abs=1e-6)
    ranks = results.curves("draws", "ranks")
    assert ranks.at == [0, 1 / 3, 2 / 3, 1] and sum(ranks.columns["share"]) == pytest.approx(1)
    error = results.get("draws", "expected_calibration_error")
    curve = results.curves("draws", "coverage")
    gaps = [abs(e - c) for e, c in zip(curve.at, curve.columns["coverage"], strict=True)]
    assert error.value == pytest.approx(sum(gaps) / len(gaps)) and error.low <= error.value <= error.high
    assert results.number("run", "expected_calibration_error") is None
    assert results.curves("run", "ranks") is None and results.curves("mean", "blends") is None


def test_an_evaluation_is_the_same_however_images_are_batched(flow, of_flow, evaluation_of):
    again = evaluation_of(flow, draws=3, batch=12)
    for key in ("run", "sample", "draws"):
        one, other = (e.tensors[f"{key}/crps"] for e in (of_flow, again))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_samples_are_drawn_once_for_all_rows_of_a_batch():
    asked = []

    def render(truth, mask, rendering, draw):
        asked.append(draw)
        return SimpleNamespace(predicted_image=truth + draw)

    of = Distribution(SimpleNamespace(render=render), draws=2)
    truth, mask = torch.zeros(1, 3, 4, 4), torch.ones(1, 4, dtype=torch.bool)
    for rows in (of.rendered("sample"), of.mean_of_samples):
        rows(truth, mask)
    assert asked == [0, 1]
    of.samples(truth.clone(), mask)
    assert asked == [0, 1, 0, 1]
