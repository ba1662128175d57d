"""One line per objective: its means over seeds, and never over runs that differ in more."""

import json
import sys

import pytest

from experiments import seeds
from losses import InvalidSetting
from recon.evaluation.protocol import Protocol
from recon.result_table import Comparison, Made, Results, RowInfo, Value


def comparison(*runs: tuple[str, int, float, dict]) -> Comparison:
    """Of (objective, seed, PSNR, other settings); detail is a fortieth of the PSNR."""
    psnr = {f"run/{i}": run[2] for i, run in enumerate(runs)} | {"ridge": 15.0, "truth": 40.0}
    values = [Value("", key, "masked_psnr", value=value) for key, value in psnr.items()]
    values += [Value("", key, "detail", value=value and value / 40) for key, value in psnr.items()]
    made = {
        f"run/{i}": Made(expression, {"seed": seed} | other, {}, 1, "", [])
        for i, (expression, seed, _, other) in enumerate(runs)
    }
    rows = [RowInfo(key, key, "run" if key in made else "simple") for key in psnr]
    protocol = Protocol("photos", "val", 10, (16, 16), 4, "random", 0.75, 0)
    return Comparison("", "", protocol, "", None, [], rows, Results(values), {}, [], made)


def test_means_over_seeds_with_half_of_their_range():
    table = seeds.seeds(comparison(("mse", 0, 16.0, {}), ("l1", 0, 12.0, {}), ("mse", 1, 18.0, {})))
    assert table == [
        ["", "PSNR dB", "detail"],
        ["mse (2 seeds)", "17.00 ±1.00", "0.425 ±0.025"],
        ["l1", "12.00", "0.300"],
        ["ridge", "15.00", "0.375"],
        ["truth", "40.00", "1.000"],
    ]


def test_a_run_without_a_value_leaves_its_objective_without_one():
    table = seeds.seeds(comparison(("mse", 0, 16.0, {}), ("mse", 1, None, {})))
    assert table[1] == ["mse (2 seeds)", "-", "-"]


def test_runs_that_differ_in_more_than_their_seed_are_no_seeds_of_one_another():
    other = comparison(("mse", 0, 16.0, {"train.steps": 10}), ("mse", 1, 17.0, {"train.steps": 20}))
    with pytest.raises(InvalidSetting, match=r"more than their seed: train\.steps"):
        seeds.seeds(other)


def test_one_seed_twice_is_not_two_seeds():
    with pytest.raises(InvalidSetting, match="same seed"):
        seeds.seeds(comparison(("mse", 0, 16.0, {}), ("mse", 0, 16.0, {})))


def test_what_changes_nothing_may_differ():
    table = seeds.seeds(comparison(("mse", 0, 16.0, {"device": "cpu"}), ("mse", 1, 18.0, {"device": "cuda"})))
    assert table[1][0] == "mse (2 seeds)"


def test_a_checkpoint_called_as_an_objective_is_a_row_of_its_own():
    others = comparison(("mse", 0, 16.0, {}), ("mse", 1, 18.0, {}))
    others.rows.insert(0, RowInfo("run/mse", "mse", "run"))
    table = seeds.seeds(others)
    assert [line[0] for line in table[1:3]] == ["mse", "mse (2 seeds)"]


@pytest.mark.parametrize("text", [None, "{", json.dumps({"rows": []})])
def test_another_file_is_one_line(tmp_path, monkeypatch, capsys, text):
    path = tmp_path / "comparison.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["seeds", str(path)])
    with pytest.raises(SystemExit) as stopped:
        seeds.main()
    assert stopped.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
