"""What a run leaves on disk, what it is called, and how its files are written and checked."""

import contextlib
import json
import re
import shutil
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from losses import InvalidSetting
from recon import run_folder
from recon.config import Settings, every_setting
from recon.loaded_run import load_run
from recon.run_folder import (
    CHECKPOINT,
    PREVIOUS,
    RUNS,
    WriteError,
    create,
    existing,
    read_checkpoint,
    write_atomically,
    write_text,
)
from recon.saved_settings import flat, resumed_settings, settings_from
from tests.recon.training.conftest import differences, lines_of, settings, small_run


def begin(of: Settings) -> Path:
    with ExitStack() as locks:
        return create(of, locks)


KEYS = [s.key for s in every_setting()]


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures):
    words = ["loss=mse+20%perceptual", "train.steps=5", "train.picture_every=4", "train.checkpoint_every=2"]
    return small_run(tmp_path_factory.mktemp("run"), pictures, "whole", *words)


def test_a_run_leaves_these_files_and_no_others(run):
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "checkpoint.previous.pt",
        "model.safetensors",
        "reconstructions.png",
        "tensorboard",
    }
    assert [path.name for path in run.parent.parent.iterdir()] == ["runs"]


def test_config_holds_every_setting_and_what_was_found(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    found = config.pop("resolved")
    assert flat(settings_from(flat_of(config))).keys() == set(KEYS)
    assert config["loss"] == "mse+20%perceptual" and config["batch"]["size"] == 8
    assert found["objective"] == "mse + 20%perceptual" and found["steps"] == 5 and found["training_images"] == 10
    assert found["weights"]["perceptual"]["source"] == "random"
    assert re.fullmatch("[0-9a-f]{64}", found["weights"]["perceptual"]["sha256"])


def flat_of(tree: dict, prefix: str = "") -> dict:
    """A tree to values by key."""
    flat = {}
    for name, value in tree.items():
        flat |= flat_of(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def test_the_environment_is_written_down(run):
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] in torch.__version__ and environment["device"] == "cpu"
    assert environment["threads"] == torch.get_num_threads() and "python" in environment


def test_the_model_file_is_the_model_of_the_checkpoint(run):
    assert differences(load_file(run / "model.safetensors"), read_checkpoint(run / CHECKPOINT)["model"]) == []


def test_the_picture_is_a_picture(run):
    with Image.open(run / "reconstructions.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 100


def test_metrics_come_at_their_steps(run):
    lines = lines_of(run)
    training = [line for line in lines if "loss" in line]
    looking = [line for line in lines if "held_out/masked_psnr" in line]
    assert [line["step"] for line in training] == [2, 4, 5]
    assert [line["step"] for line in looking] == [4, 5]
    assert set(training[0]) == {
        "step",
        "loss",
        "gradient_norm",
        "learning_rate",
        "images_per_second",
        "cosine/mse~perceptual",
        *(f"{t}/{k}" for t in ("mse", "perceptual") for k in ("value", "weight", "gradient_norm", "gradient_share")),
    }
    assert "held_out/mean_colour_psnr" in looking[0]


def test_no_step_has_two_lines(run):
    steps = [line["step"] for line in lines_of(run)]
    assert steps == sorted(set(steps))


def test_every_line_is_strict_json(run):
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_percentages_hold_in_the_log(run):
    """20% of mse's push, of both together a sixth."""
    for line in lines_of(run):
        if "loss" in line:
            assert line["perceptual/gradient_share"] == pytest.approx(1 / 6, rel=1e-5)
            assert line["mse/gradient_share"] == pytest.approx(5 / 6, rel=1e-5)


def test_a_run_older_than_a_setting_goes_on_under_its_default(run):
    saved = read_checkpoint(run / CHECKPOINT)["settings"]
    del saved["data.repeats"]
    assert resumed_settings(saved, *settings("data.repeats=1"))["data.repeats"] == 1
    with pytest.raises(InvalidSetting, match=r"data\.repeats=2 \(was 1\)"):
        resumed_settings(saved, *settings("data.repeats=2"))


class TestNames:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path):
        with contextlib.chdir(tmp_path):
            yield

    @pytest.mark.parametrize(
        "loss", ["mse", "mse + 0.1*l1", "50%adversarial+mse", "1e-3*mse+2.5%l1", "1E+2 * mse\n+l1", ".5*mse"]
    )
    def test_a_name_made_from_the_loss_is_safe_for_every_file_system(self, loss):
        folder = begin(settings(f"loss={json.dumps(loss)}", "data.name=hfds/some/set")[0])
        assert folder.parent == RUNS and folder.is_dir()
        assert re.fullmatch(r"[A-Za-z0-9_.+~-]+", folder.name) and not folder.name.startswith(".")
        assert len(list(RUNS.iterdir())) == 1

    def test_losses_that_differ_have_names_that_differ(self, monkeypatch):
        self.stop_the_clock(monkeypatch)
        losses = ["mse+l1", "mse+10*l1", "mse+10%l1", "mse+1.0*l1", "mse+1*l1"]
        stems = [begin(settings(f"loss={loss}")[0]).name for loss in losses]
        assert len(set(stems)) == len(losses) and not any(re.search(r"-\d$", stem) for stem in stems)

    def test_runs_begun_in_the_same_second_have_folders_of_their_own(self, monkeypatch):
        self.stop_the_clock(monkeypatch)
        folders = [begin(settings("loss=mse")[0]) for _ in range(3)]
        assert len(set(folders)) == 3 and all(folder.is_dir() for folder in folders)

    def stop_the_clock(self, monkeypatch):
        class Clock(datetime):
            @classmethod
            def now(cls):
                return cls(2026, 1, 2, 3, 4, 5)

        monkeypatch.setattr(run_folder, "datetime", Clock)

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\\b", "/etc"])
    def test_a_name_that_is_no_folder_is_refused(self, name):
        with pytest.raises(InvalidSetting, match="name="):
            begin(settings(f"name={json.dumps(name)}")[0])
        assert not RUNS.exists()

    def test_a_run_is_never_written_over(self):
        (begin(settings("name=mine")[0]) / CHECKPOINT).touch()
        with pytest.raises(InvalidSetting, match=r"^runs/mine exists.*resume=true.*name="):
            begin(settings("name=mine")[0])

    def test_of_two_runs_of_one_name_that_begin_at_once_one_is_refused(self):
        with ExitStack() as locks:
            create(settings("name=mine")[0], locks)
            with pytest.raises(InvalidSetting, match=r"^another process writes to runs/mine; "):
                begin(settings("name=mine")[0])
        begin(settings("name=mine")[0])  # the first is gone, and left nothing

    def test_a_run_that_was_ended_before_its_first_checkpoint_is_begun_again(self):
        begin(settings("name=mine")[0])
        (RUNS / "mine" / "config.yaml").touch()
        with pytest.raises(InvalidSetting, match=r"^runs/mine was ended before .* begin it again"):
            existing(settings("resume=true", "name=mine")[0])
        assert begin(settings("name=mine")[0]) == RUNS / "mine"

    def test_where_no_folder_can_be_made_one_line_says_so(self):
        with pytest.raises(WriteError, match=r"^runs/n+ cannot be written: File name too long$"):
            begin(settings(f"name={'n' * 256}")[0])
        shutil.rmtree(RUNS)
        RUNS.touch()
        for words in (["name=mine"], []):
            with pytest.raises(WriteError, match=r"^runs(/mine)? cannot be written: (File exists|Not a directory)$"):
                begin(settings(*words)[0])

    def test_a_run_to_resume_must_be_named_and_be_there(self):
        with pytest.raises(InvalidSetting, match="name=NAME"):
            existing(settings("resume=true")[0])
        there = RUNS / "mine"
        there.mkdir(parents=True)
        (there / CHECKPOINT).touch()
        for words in (["resume=true"], ["resume=true", "name=mien"]):
            with pytest.raises(InvalidSetting, match="mine") as error:
                existing(settings(*words)[0])
            assert len(str(error.value).splitlines()) == 1
        assert existing(settings("resume=true", "name=mine")[0]) == there

    def test_a_run_whose_newest_checkpoint_is_missing_is_listed_too(self):
        there = RUNS / "mine"
        there.mkdir(parents=True)
        (there / PREVIOUS).touch()
        assert existing(settings("resume=true", "name=mine")[0]) == there
        with pytest.raises(InvalidSetting, match="mine"):
            existing(settings("resume=true")[0])


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_text(path, "before")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_two_that_write_one_file_at_once_do_not_mix(tmp_path):
    path = tmp_path / "file"
    with write_atomically(path) as one, write_atomically(path) as two:
        for half in (b"first ", b"second"):
            one.write(half)
            two.write(half.upper())
    assert path.read_text() == "first second" and list(tmp_path.iterdir()) == [path]


def test_a_file_can_be_read_by_those_who_may_read_others(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "written", "")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_changed_bit_of_the_model_or_the_configuration_is_told(run, tmp_path):
    for name, remedy in (("model.safetensors", "digest"), ("config.yaml", "remove its last line")):
        damaged = shutil.copytree(run, tmp_path / name)
        content = bytearray((damaged / name).read_bytes())
        content[len(content) - 200] ^= 1  # of a weight, or of a word
        (damaged / name).write_bytes(content)
        with pytest.raises(InvalidSetting, match=remedy):
            load_run(damaged)
    text = (run / "config.yaml").read_text()
    (damaged / "config.yaml").write_text(text[: text.rindex("#")].replace("seed: 0", "seed: 1"))  # as a user may
    assert load_run(damaged).settings.seed == 1
