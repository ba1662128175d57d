"""Runs of strangers and damaged ones: nothing in them is interpolated, nothing grows, one line names them."""

import json
import math
import re
import shutil

import pytest
import torch
import yaml

from losses import InvalidSetting, tensor_files
from recon.config import Settings
from recon.loaded_run import load_run
from recon.run_folder import (
    CHECKPOINT,
    CHECKPOINT_TYPES,
    CONFIG,
    METRICS,
    MODEL,
    PREVIOUS,
    load_checkpoint,
    read_metrics,
)
from recon.saved_settings import flat, settings_from
from recon.training.train_logger import RunLog
from tests.recon.training.conftest import resumed, small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures):
    place = tmp_path_factory.mktemp("strangers")
    return small_run(place, pictures, "a", "loss=mse", "train.steps=2", "train.checkpoint_every=1")


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "runs" / "a")
    return tmp_path / "runs" / "a"


def test_values_of_files_are_taken_as_they_are(monkeypatch):
    monkeypatch.setenv("SECRET", "told")
    for value in ("${oc.env:SECRET}", "${7*7}", "$", "${data.name}", "\\${x}", "$${", "a${"):
        settings = settings_from(
            flat(Settings()) | {"data.root": value, "losses.perceptual.taps": [value], "name": value}
        )
        assert settings.data.root == settings.name == value and settings.losses.perceptual.taps == [value]


def edited(copy, key: str, value: object) -> None:
    config = yaml.safe_load((copy / CONFIG).read_text())
    *nodes, leaf = key.split(".")
    tree = config
    for node in nodes:
        tree = tree[node]
    tree[leaf] = value
    (copy / CONFIG).write_text(yaml.safe_dump(config))


def test_a_config_cannot_ask_for_a_secret(copy, monkeypatch):
    monkeypatch.setenv("SECRET", "told")
    edited(copy, "data.root", "${oc.env:SECRET}")
    assert load_run(copy).settings.data.root == "${oc.env:SECRET}"


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
)
CONFIGS = {
    "aliases of aliases": BOMB,
    "depth": "[" * 3000 + "]" * 3000,
    "size": "a: " + "x" * 2**20,
    "no yaml": "a: b: c",
    "another encoding": b"a: caf\xe9",
    "a list": "[1, 2]",
    "nothing": "",
    "a number": "7",
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_that_is_none_is_one_line_at_once(copy, what):
    content = CONFIGS[what]
    (copy / CONFIG).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert one_line(copy).startswith(f"{copy / CONFIG} is damaged, or of another version")


def one_line(copy) -> str:
    with pytest.raises(InvalidSetting) as error:
        load_run(copy)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 500 + len(str(copy))
    return str(error.value)


WRONG = {
    "model.decoder_depth": [10**6, 2**63, "many", [1], {"a": 1}],
    "data.image_size": [2**62, [2**31, 2**31], 0, "big", None, math.nan],
    "resolved.mean": [[], [0.5], "abc", 0.5, None, [1, 2, math.nan], ["a", "b", "c"]],
    "resolved.std": [[1, 2], [1, 2, math.inf]],
    "resolved.head": ["none", None, 3],
    "resolved": [None, [], "x"],
    "losses": [None, 3, []],
    "loss": [None, ["mse"]],
    "optim.betas": [3],
}


def test_values_of_another_kind_are_one_line(run, tmp_path):
    for key, values in WRONG.items():
        for number, value in enumerate(values):
            copy = tmp_path / f"{key}{number}"
            shutil.copytree(run, copy)
            edited(copy, key, value)
            assert str(copy / CONFIG) in one_line(copy), (key, value)


def test_a_checkpoint_of_other_types_is_refused_and_the_one_before_it_read(copy):
    state = torch.load(copy / CHECKPOINT, weights_only=True)
    shutil.copy(copy / CHECKPOINT, copy / PREVIOUS)
    for key, kind in CHECKPOINT_TYPES.items():
        torch.save(state | {key: "x" if kind is not int else 1.5}, copy / CHECKPOINT)
        _, refused = load_checkpoint(copy)
        assert len(refused) == 1 and f"its {key} is" in refused[0] and len(refused[0].splitlines()) == 1


def test_a_checkpoint_that_does_not_fit_is_one_line(copy):
    state = torch.load(copy / CHECKPOINT, weights_only=True)
    first, tensor = next(iter(state["model"].items()))
    wrong = {
        "model": [{}, {first: tensor}, state["model"] | {first: tensor[..., :1]}, state["model"] | {first: "x"}],
        "optimizer": [{}, {"state": {}, "param_groups": []}, {"state": {99: {}}, "param_groups": [3]}],
        "objective": [{"l1": {}}],
        "tally": [{}, {"skipped_by": [], "row": 3}],
        "random": [{}, {"cpu": torch.zeros(3)}],
        "settings": [{}, {"loss": 3}, state["settings"] | {"optim.betas": "x"}, {"a": {"b": 1}}],
        "start": [3, {"mean": []}],
        "before": [3, {"title": 3}],
    }
    for key, values in wrong.items():
        for value in values:
            torch.save(state | {"step": 1, key: value}, copy / CHECKPOINT)
            with pytest.raises(InvalidSetting) as error:
                resumed(copy.parents[1], "a")
            assert len(str(error.value).splitlines()) == 1, (key, value)


DAMAGED = [
    b'{"step": 3, "loss": 0.1, "caf\xe9": 1}\n',
    b"[5]\n",
    b"5\n",
    b'{"step": "3"}\n',
    b"\xff\xfe\n",
    b'{"step": 9',
]


def test_damaged_lines_of_the_log_are_left_out(tmp_path):
    good = b'{"step": 1, "loss": 0.5}\n'
    (tmp_path / METRICS).write_bytes(good + b"".join(DAMAGED) + b"\n" + b"[" * 100_000 + b"\n")
    assert read_metrics(tmp_path)["step"] == [1, 3] and read_metrics(tmp_path)["loss"] == [0.5, 0.1]
    with RunLog(tmp_path, 2) as log:
        log.log_metrics(2, {"loss": math.inf, "value": math.nan})
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert lines[0].encode() + b"\n" == good
    assert json.loads(lines[1], parse_constant=pytest.fail) == {"step": 2, "loss": None, "value": None}


@pytest.mark.parametrize("step", ["abc", "", "1.5", "1e9", "-3"])
def test_a_step_that_is_no_number_is_named(copy, step):
    stored = tensor_files.from_bytes((copy / MODEL).read_bytes())
    (copy / MODEL).write_bytes(tensor_files.to_bytes(stored.content, stored.metadata | {"step": step}))
    with pytest.raises(InvalidSetting, match=rf"model\.safetensors cannot be read \(.*{re.escape(step)}"):
        load_run(copy)
