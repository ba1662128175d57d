"""Tables: CSV to the last digit, and cells with the digits that their uncertainty is worth."""

import copy
import csv

import pytest

from recon.report.page import cell, column_cells, decimals, difference_table, grouped
from recon.report.page import number as formatted
from recon.report.tables import write_csv, write_tables
from recon.result_table import Value
from tests.recon.report.comparison import METRICS, ROWS, comparison, typed


def read(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path):
    paths = write_tables(typed(), tmp_path)
    assert sorted(paths) == sorted(tmp_path.iterdir())
    return tmp_path


def number(text: str) -> float | None:
    return None if text == "" else float(text)


def test_every_value_and_interval_of_the_table_reads_back_exactly(folder):
    records = read(folder / "table.csv")
    assert [record["key"] for record in records] == [key for key, _, _ in ROWS]
    for record, row in zip(records, comparison()["rows"], strict=True):
        assert (record["label"], record["kind"], record["note"]) == (row["label"], row["kind"], row["note"] or "")
        for metric in METRICS:
            for suffix, name in {"": "value", "_low": "low", "_high": "high"}.items():
                assert number(record[metric + suffix]) == row["values"][metric][name]


def test_every_difference_reads_back(folder):
    for record, difference in zip(read(folder / "differences.csv"), comparison()["differences"], strict=True):
        assert {key: record[key] for key in ("metric", "a", "b")} == {
            key: difference[key] for key in ("metric", "a", "b")
        }
        assert [float(record[key]) for key in ("value", "low", "high")] == [
            difference[key] for key in ("value", "low", "high")
        ]
        assert record["excludes_zero"] == str(difference["excludes_zero"])


@pytest.mark.parametrize("name", ["bands", "spectra", "by_distance"])
def test_every_point_of_a_curve_reads_back(folder, name):
    records = read(folder / f"{name}.csv")
    for key, data in comparison()[name].items():
        own = [record for record in records if record["row"] == key]
        for column, values in data.items():
            assert [number(record[column]) for record in own] == values
    assert len(records) == sum(len(next(iter(data.values()))) for data in comparison()[name].values())


def test_calibration_and_the_plane_of_the_frontier_read_back(folder):
    for key, found in comparison()["calibration"].items():
        ranks = [record for record in read(folder / "ranks.csv") if record["row"] == key]
        assert [number(record["share"]) for record in ranks] == found["ranks"]
        assert [number(record["draws_below"]) for record in ranks] == [i / found["draws"] for i in range(len(ranks))]
        coverage = [record for record in read(folder / "coverage.csv") if record["row"] == key]
        for column in ("expected", "coverage"):
            assert [number(record[column]) for record in coverage] == found[column][::-1]
    planes = {record["row"]: record for record in read(folder / "frontier.csv")}
    assert set(planes) == set(comparison()["planes"])
    for key, plane in comparison()["planes"].items():
        assert {name: number(planes[key][name]) for name in plane} == plane


def test_training_has_a_column_per_curve_that_any_run_has(tmp_path):
    found = copy.deepcopy(comparison())
    curves = found["training"]["runs/mse"]["curves"]
    del curves["perceptual/gradient_norm"]
    write_tables(typed(found), tmp_path)
    records = read(tmp_path / "training.csv")
    for key, data in found["training"].items():
        own = [record for record in records if record["row"] == key]
        assert [int(record["step"]) for record in own] == data["step"]
        for name in comparison()["training"][key]["curves"]:
            expected = data["curves"].get(name, [None] * len(own))
            assert [number(record[name]) for record in own] == expected


def test_a_table_without_data_has_no_file(folder):
    assert not (folder / "by_ratio.csv").exists()


def test_any_name_survives(tmp_path):
    found = copy.deepcopy(comparison())
    name = 'a,b\n"c";\r\né=1'
    found["rows"][1]["label"] = found["rows"][1]["note"] = name
    write_tables(typed(found), tmp_path)
    record = read(tmp_path / "table.csv")[1]
    assert record["label"] == record["note"] == name


@pytest.mark.parametrize("name", ["=1+cmd|' /C calc'!A0", "+1", "-1", "@x", "\t=1", "caf\udce9"])
def test_no_name_is_a_formula_or_stops_the_writing(tmp_path, name):
    write_csv([{"label": name, "value": -1.5}], tmp_path / "a.csv")
    (record,) = read(tmp_path / "a.csv")
    assert record["value"] == "-1.5"
    assert record["label"] == ("caf\\udce9" if name[0] == "c" else "'" + name)


def values(value, low=None, high=None, reason=None) -> Value:
    return Value("", "row", "metric", value=value, low=low, high=high, n=64, reason=reason)


@pytest.mark.parametrize(
    ("spread", "places"), [(0.3, 2), (0.03, 3), (3.0, 1), (30.0, 0), (3000.0, 0), (0.00021, 5), (1e-12, 7)]
)
def test_a_column_has_two_digits_of_its_typical_uncertainty(spread, places):
    assert decimals([values(21.0, 21.0 - spread, 21.0 + spread), values(None), values(5.0)]) == places


@pytest.mark.parametrize(("value", "places"), [(0.0123, 4), (1.5, 2), (123.0, 0)])
def test_without_uncertainty_a_column_has_three_digits_of_its_typical_value(value, places):
    assert decimals([values(value), values(0.0), values(0.0, 0.0, 0.0)]) == places


def test_a_column_of_nothing_has_no_decimals():
    assert decimals([values(None), values(0.0)]) == 0


@pytest.mark.parametrize(
    ("value", "shown"), [(21.346, "21.35"), (-0.5, "\N{MINUS SIGN}0.50"), (-0.001, "0.00"), (0.0, "0.00")]
)
def test_a_number_has_a_true_minus_sign_unless_it_is_shown_as_zero(value, shown):
    assert formatted(value, 2) == shown


def test_a_cell_tells_its_interval_and_full_precision():
    found = cell(values(21.34567, 21.0, 21.7), 1, None)
    assert (found.shown, found.interval) == ("21.3", "[21.0, 21.7]")
    assert found.tip == "21.3457, interval 21 to 21.7, 64 images"


def test_a_cell_without_a_value_tells_why():
    found = cell(values(None, reason="not defined: patches below 8 pixels"), 2, None)
    assert (found.value, found.shown, found.interval) == (None, "\N{EN DASH}", "")
    assert found.tip == "not defined: patches below 8 pixels"


def test_only_where_the_truth_is_the_aim_a_cell_is_told_as_a_share_of_it():
    sharp, error = (next(c for c in typed().columns if c.name == name) for name in ("tenengrad", "masked_mse"))
    truth, blurred = (typed().results.number(key, "tenengrad") for key in ("truth", "runs/mse"))
    assert column_cells(typed(), sharp)["runs/mse"].tip.endswith(f"; {blurred / truth:.3g} of the truth's")
    assert "truth" not in column_cells(typed(), error)["runs/mse"].tip


def test_metrics_stand_in_their_groups_in_the_order_given():
    groups = grouped(typed().columns)
    named = ["fidelity", "structure", "sharpness", "recovery", "distribution", "representation"]
    assert [name for name, _ in groups] == named
    assert [column.name for _, columns in groups for column in columns] == list(METRICS)


def test_differences_have_a_sign_and_a_verdict():
    found = difference_table(typed())
    assert len(found["pairs"]) == 6
    for difference in comparison()["differences"]:
        shown, excludes = found["cells"][difference["a"], difference["b"], difference["metric"]]
        assert shown.value == difference["value"]
        assert excludes == difference["excludes_zero"]
        assert shown.shown[0] == ("+" if difference["value"] > 0 else "\N{MINUS SIGN}")
