"""What the representations are worth, in a comparison: columns, controls, differences, curves."""

import shutil
from dataclasses import replace

import pytest
import torch

from recon.comparison.assemble import read_comparison
from recon.comparison.compare_runs import compare
from recon.comparison.differences import with_decisions
from recon.comparison.probed import GROUP, curves, with_probes
from recon.probing import probe_results as probes
from recon.result_table import Comparison, Results, Value
from tests.recon.comparison.conftest import comparing
from tests.recon.probing.conftest import probed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory, one, two):
    """Copies of two runs, both probed, and a model from scratch."""
    place = tmp_path_factory.mktemp("representation")
    for name, run in (("one", one), ("two", two)):
        shutil.copytree(run, place / "runs" / name)
        probed(place, f"run=runs/{name}", "probe.layer=all", "probe.fractions=[0.1,1]")
    words = ("data.name=photos", "data.image_size=16", "patch_size=4", "probe.epochs=0.1")
    probed(place, "scratch=nano", *words)
    return [place / "runs" / name for name in ("one", "two", "scratch-nano-4-photos-16")]


@pytest.fixture(scope="module")
def folder(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report"
    assert compare(comparing(*runs, out=str(out))) == 0
    return out


@pytest.fixture(scope="module")
def report(folder) -> Comparison:
    return read_comparison(folder / "comparison.json")


def reduced(report: Comparison, *keys: str) -> Comparison:
    """The comparison as it was before the probes were added, of these rows alone."""
    columns = [column for column in report.columns if column.group != GROUP]
    names = {column.name for column in columns}
    return replace(
        report,
        columns=columns,
        rows=[row for row in report.rows if row.key in keys],
        results=Results(v for v in report.results if v.row in keys and v.metric in names),
        differences=[],
        distances=[],
    )


def test_what_was_probed_has_columns(report, runs):
    group = [column.name for column in report.columns if column.group == GROUP]
    measures = [f"{name}_{kind}" for kind in ("class", "mean") for name in ("rankme", "alpha_req")]
    assert group == ["linear_class", "knn_20_class", "linear_mean", "knn_20_mean", *measures, "finetune_0.1_epochs"]
    results = probes.read(runs[0]).results
    for column, name in {"linear_mean": "run/linear/mean/4/1", "knn_20_class": "run/knn/k=20/class/4/1"}.items():
        found = report.results.get("run/one", column)
        assert found.value == pytest.approx(results[name].estimate.mean, rel=1e-6)
        assert found.low < found.value < found.high and found.n == results[name].estimate.images


def test_measures_without_labels_have_values_and_differences_and_rank_nobody(report, runs):
    results = [probes.read(run).results["run/rankme/mean/4"] for run in runs[:2]]
    found = report.results.get("run/one", "rankme_mean")
    assert found.value == pytest.approx(results[0].estimate.mean, rel=1e-6) and found.low < found.value < found.high
    assert found.n == 1183 and report.results.get("pixels", "rankme_mean").value > 1
    (gap,) = [d for d in report.differences if d.metric == "rankme_mean"]
    expected = (results[0].per_image - results[1].per_image).double()
    assert gap.value == pytest.approx(expected.mean().item(), abs=1e-5)
    assert gap.high - gap.low == pytest.approx(2 * 1.962 * expected.std().item() / 1183**0.5, rel=1e-3)
    assert {c.better for c in report.columns if c.name.startswith(("rankme", "alpha"))} == {"none"}
    assert not any(name.startswith(("rankme", "alpha")) for name in report.best)
    assert not any("rankme" in line for line in report.results.curves("run/one", "by_depth").columns)


def test_controls_and_the_baseline_are_rows_before_the_truth(report):
    keys = [row.key for row in report.rows]
    added = keys[keys.index("kmeans") + 1 :]
    assert [key.partition("/")[0] for key in added] == ["scratch", "untrained", "pixels", "truth"]
    get, scratch = report.results.get, "scratch/scratch-nano-4-photos-16"
    assert get("pixels", "linear_mean") == replace(get("pixels", "linear_class"), metric="linear_mean")
    assert get("pixels", "masked_psnr").reason == "not a reconstruction"
    assert get(scratch, "linear_mean").value is None and 0 <= get(scratch, "finetune_0.1_epochs").value <= 1
    assert get("run/one", "finetune_0.1_epochs").reason == "not probed this way"
    assert get("mean", "linear_mean").reason == "has no encoder"


def test_the_printed_table_has_accuracies_too(runs, tmp_path, capsys):
    compare(comparing(*runs, out=str(tmp_path / "report")))
    heading, *rows = capsys.readouterr().out.partition("PSNR dB")[2].splitlines()
    assert heading.split()[-1] == "linear"
    (at,) = [i for i, row in enumerate(rows) if row.startswith("raw pixels")]
    assert "±" in rows[at + 1]


def test_differences_are_paired_over_test_images(report, runs):
    (found,) = [d for d in report.differences if d.metric == "linear_mean"]
    right = [probes.read(run).results["run/linear/mean/4/1"].per_image.double().mean(0) for run in runs[:2]]
    gap = right[0] - right[1]
    assert (found.a, found.b) == ("run/one", "run/two")
    assert found.value == pytest.approx(gap.mean().item(), abs=1e-6)
    assert found.n == len(gap)
    assert (
        found.excludes_zero == ((found.low > 0 or found.high < 0) and found.p_holm <= 0.05) and found.p <= found.p_holm
    )


def test_curves_over_depth_and_labels(report, folder):
    for variant, places in {"by_depth": [1, 2, 3, 4], "by_labels": [0.1, 1.0]}.items():
        found = report.results.curves("run/one", variant)
        assert found.at == places
        line = found.columns["linear mean of the patch tokens"]
        assert line[-1] == report.results.number("run/one", "linear_mean")
    names = {path.name for path in folder.iterdir()}
    assert {
        "sharpness_accuracy.png",
        "accuracy_by_depth.png",
        "accuracy_by_depth.csv",
        "accuracy_by_labels.csv",
    } <= names
    assert "accuracy_by_blocks.png" not in names


@pytest.mark.parametrize("change", [{"digest": "another"}, {"image_size": [24, 24]}])
def test_probings_of_other_images_sizes_or_labels_are_not_mixed(report, runs, change):
    plain = reduced(report, "run/one", "run/two", "truth")
    first, second = (probes.read(run) for run in runs[:2])
    other = replace(second, data=replace(second.data, **change))
    mixed = with_probes(plain, {"run/one": first, "run/two": other})
    reason = "probed on other images or labels"
    assert mixed.results.get("run/two", "linear_mean") == Value("two", "run/two", "linear_mean", reason=reason)
    assert with_decisions(mixed).best["linear_mean"] == []
    assert mixed.results.curves("run/two", "by_depth") is None


def test_the_better_run_is_marked_where_the_intervals_allow_it(report, runs):
    first, second = (probes.read(run) for run in runs[:2])
    plain = reduced(report, "run/one", "run/two", "truth")
    name = "run/linear/mean/4/1"
    wrong = altered(second, {name: torch.zeros_like(second.results[name].per_image)})
    found = with_decisions(with_probes(plain, {"run/one": first, "run/two": wrong}))
    assert found.best["linear_mean"] == ["run/one"]
    same = altered(second, {name: first.results[name].per_image})
    assert with_decisions(with_probes(plain, {"run/one": first, "run/two": same})).best["linear_mean"] == []


def test_a_comparison_without_probes_has_no_such_columns(report):
    plain = reduced(report, "run/one", "truth")
    assert with_probes(plain, {}) == plain and not any(column.group == GROUP for column in plain.columns)


def altered(record: probes.ProbeRecord, changes: dict[str, torch.Tensor | None]) -> probes.ProbeRecord:
    """The record with some results taken away (None) or with other images told right."""
    results = {
        name: replace(found, per_image=changes.get(name, found.per_image)) for name, found in record.results.items()
    }
    return replace(record, results={name: found for name, found in results.items() if found.per_image is not None})


def test_the_column_is_of_most_labels_whoever_was_asked_with_them(report, runs):
    """A run that was asked with a tenth of the labels does not hide what another was asked with all of them."""
    first, second = (probes.read(run) for run in runs[:2])
    fewer = altered(second, {name: None for name, result in second.results.items() if result.fraction == 1})
    plain = reduced(report, "run/one", "run/two", "truth")
    for order in ({"run/one": first, "run/two": fewer}, {"run/two": fewer, "run/one": first}):
        mixed = with_probes(plain, order)
        names = [column.name for column in mixed.columns]
        assert len(names) == len(set(names))
        assert mixed.results.get("run/one", "linear_mean") == report.results.get("run/one", "linear_mean")
        assert mixed.results.get("run/two", "linear_mean").reason == "not probed this way"


def test_a_probe_with_few_labels_has_a_column_beside_one_with_all(report, runs):
    first = probes.read(runs[0])
    few = altered(first, {n: None for n in first.results if n.startswith("run/knn") and n.endswith("/1")})
    plain = reduced(report, "run/one", "truth")
    found = with_probes(plain, {"run/one": few})
    what = {column.name: column.description for column in found.columns}
    assert "10% of the training labels" in what["knn_20_mean"] and "100% of the" in what["linear_mean"]


def test_a_control_that_runs_share_has_the_answers_of_all(report, runs):
    first, second = (probes.read(run) for run in runs[:2])
    without = altered(first, {name: None for name, result in first.results.items() if result.probe == "linear"})
    plain = reduced(report, "run/one", "run/two", "truth")
    found = with_probes(plain, {"run/one": without, "run/two": second})
    assert found.results.get("pixels", "linear_mean") == report.results.get("pixels", "linear_mean")


def test_curves_keep_lengths_of_training_apart():
    def result(blocks: float, epochs: int, right: int) -> probes.ProbeResult:
        correct = torch.arange(10)[None] < right
        return probes.ProbeResult("run", "partial", f"blocks={blocks:g}, {epochs} epochs", "", 1.0, correct)

    found = Results(curves("one", "run/one", [result(0, 20, 3), result(1, 20, 5), result(1, 100, 8)]))
    by_blocks = found.curves("run/one", "by_blocks")
    assert by_blocks.at == [0, 1]
    assert by_blocks.columns == {"partial 20 epochs": [0.3, 0.5], "partial 100 epochs": [None, 0.8]}


def test_a_probing_of_a_network_that_has_changed_is_left_out(runs, tmp_path, capsys):
    place = tmp_path / "runs"
    for run in runs[:2]:
        shutil.copytree(run, place / run.name)
    for name in (probes.JSON, probes.TENSORS):
        shutil.copy(runs[0] / name, place / "two" / name)
    out = tmp_path / "report"
    assert compare(comparing(place / "one", place / "two", out=str(out))) == 0
    found = read_comparison(out / "comparison.json").results
    assert found.number("run/one", "linear_mean") is not None
    assert found.get("run/two", "linear_mean").reason == "not probed"
    assert "two has changed since it was probed" in capsys.readouterr().err
