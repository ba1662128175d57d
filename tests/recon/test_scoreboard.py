"""The printed table: eight columns, one of each kind, fit a terminal; all the others follow on demand."""

import pytest

from recon.metrics import GROUPS
from recon.result_table import Column, Results, RowInfo, Value
from recon.scoreboard import HEADINGS, KINDS, WIDTH, scoreboard, table

NAMES = [name for group in GROUPS.values() for name in group] + ["linear_mean", "linear_class"]
COLUMNS = [Column("group", name, "", "", None, None, "higher", "", paired=True) for name in NAMES]
ROWS = [
    RowInfo(
        "run/a", "imagenette-perceptual+mse-200-epochs-2026-11-28 (mean of 4 draws)", "run", own=("frechet_distance",)
    ),
    RowInfo("mean", "mean of the visible colours", "simple"),
    RowInfo("truth", "the truth", "truth"),
]


def results(*without: str) -> Results:
    """As wide as numbers get; the truth has none of LPIPS, and intervals of no width."""
    found = [
        Value("", row.key, name, value=-0.0123, low=-0.02, high=0.01)
        for row in ROWS[:2]
        for name in NAMES
        if name not in without
    ]
    return Results([*found, *(Value("", "truth", name, value=1.0, low=1.0, high=1.0) for name in NAMES)])


def test_the_default_table_has_eight_columns_of_eight_kinds_and_fits_a_terminal():
    lines = table(ROWS, COLUMNS, results()).splitlines()
    assert len(scoreboard(ROWS, results())) == len(KINDS) == 8
    assert lines[0].split() == ["PSNR", "dB", "SSIM", "LPIPS", "detail", "seams", "inv.", "share", "FD", "linear"]
    assert max(map(len, lines)) <= WIDTH == 100


def test_every_kind_s_columns_are_measured_or_probed():
    assert {name for names in KINDS.values() for name in names} <= set(NAMES) | {"knn_20_mean", "knn_20_class"}
    assert {name for names in KINDS.values() for name in names} <= set(HEADINGS)


def test_all_columns_follow_in_blocks_that_fit_a_terminal():
    text = table(ROWS, COLUMNS, results(), "all")
    assert max(map(len, text.splitlines())) <= WIDTH
    headings = [heading for block in text.split("\n\n") for heading in block.splitlines()[0].split()]
    assert headings == [word for name in NAMES for word in HEADINGS.get(name, name).split()]


def test_half_an_interval_stands_below_its_value_and_a_long_name_goes_on_there():
    lines = table(ROWS, COLUMNS, results()).splitlines()
    assert "".join(line[:26].strip() for line in lines[1:4]).startswith(ROWS[0].label.split(" ")[0])
    assert lines[1].split()[1:8] == ["-0.0123"] * 6 + ["-0.0123*"] and lines[2].split()[1:] == ["±0.0150"] * 8
    assert lines[-2].startswith("the truth") and "±" not in lines[-2]
    assert lines[-1].startswith("* by a network")


@pytest.mark.parametrize(
    ("without", "shown"), [("lpips", {"vgg19"}), ("linear_mean", {"linear_class"}), ("seam_ratio", set())]
)
def test_where_a_column_is_missing_the_next_of_its_kind_stands_there_or_none(without, shown):
    others = Results(v for v in results() if v.metric != without)
    before, after = (set(scoreboard(ROWS, found).values()) for found in (results(), others))
    assert before - after == {without} and after - before == shown


def test_columns_without_a_value_are_left_out_and_no_value_is_a_dash():
    lines = table(ROWS, COLUMNS, Results([Value("", "mean", "detail", value=0.5)])).splitlines()
    assert [line.split()[-1] for line in lines if line[-1] != ")"][:2] == ["detail", "-"] and "PSNR" not in lines[0]
