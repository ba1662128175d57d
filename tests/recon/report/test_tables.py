"""Tables as CSV say what the comparison says, to the last digit."""

import copy
import csv

import pytest

from recon.report.tables import write_tables
from tests.recon.report.comparison import METRICS, ROWS, comparison


def read(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path):
    paths = write_tables(comparison(), tmp_path)
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


def test_training_has_a_column_per_curve_that_any_run_has(tmp_path):
    found = copy.deepcopy(comparison())
    curves = found["training"]["runs/mse"]["curves"]
    del curves["perceptual/gradient_norm"]
    write_tables(found, tmp_path)
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
    write_tables(found, tmp_path)
    record = read(tmp_path / "table.csv")[1]
    assert record["label"] == record["note"] == name
