"""The command line: how it says what it does not understand, and how a run or a sweep ends."""

import re
import subprocess
import sys

import pytest
import torch
import yaml

from recon import cli as command
from recon.config import Settings
from recon.run_folder import CHECKPOINT, read_checkpoint
from tests.recon.training.conftest import SMALL, contents, differences, save_pictures, small_run, state_of

RUN = [*(word for word in SMALL if not word.startswith("data.name")), "train.steps=2"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("pictures"))


TINY = ["loss=mse", "model=nano", "data.image_size=32", "model.patch_size=4", "batch.size=32", "train.steps=1"]
WRONG = {
    "unknown setting": (["lr=1"], ["unknown setting 'lr'"]),
    "mistyped setting": (["sed=1"], ["unknown setting 'sed'", "did you mean 'seed'"]),
    "mistyped nested setting": (["optim.base_lrr=1"], ["'optim.base_lrr'", "did you mean 'optim.base_lr'"]),
    "a setting that was renamed": (["batch.global=8"], ["'batch.global'", "is now called 'batch.size'"]),
    "mistyped node": (["optm.base_lr=1"], ["'optm.base_lr'", "did you mean 'optim.base_lr'"]),
    "mistyped option of a term": (["losses.perceptual.weigths=random"], ["did you mean 'losses.perceptual.weights'"]),
    "no value": (["seed"], ["'seed'", "key=value"]),
    "text for a number": (["train.steps=many"], ["train.steps", "many"]),
    "a fraction for a count": (["batch.size=8.5"], ["batch.size", "8.5"]),
    "text for a switch": (["compile=perhaps"], ["compile", "perhaps"]),
    "a value for a node": (["optim=3"], ["optim"]),
    "null for a number": (["seed=null"], ["seed"]),
    "null for the image size": (["data.image_size=null"], ["data.image_size"]),
    "a list without an end": (["optim.betas=[0.9"], ["optim.betas=[0.9"]),
    "an existing setting added": (["+seed=1"], ["seed"]),
    "unknown preset": (["preset=imagnette"], ["unknown preset 'imagnette'"]),
    "a sweep without -m": (["loss=mse,l1"], ["loss", "-m"]),
    "unknown term": (["loss=perceptuall+mse"], ["unknown loss term 'perceptuall'", "did you mean 'perceptual'"]),
    "half a loss": (["loss='mse +'"], ["cannot read the loss 'mse +'"]),
    "no loss": (["loss="], ["loss"]),
    "unknown data": (["data=imagnette"], ["unknown dataset 'imagnette'", "did you mean 'imagenette'"]),
    "no folder named": (["data=folder", "data.root=null"], ["data.root=PATH"]),
    "missing folder": (["data=folder", "data.root=nowhere"], ["data.root=nowhere", "missing"]),
    "unknown model": (["model=tinny"], ["unknown model 'tinny'", "did you mean 'tiny'"]),
    "unknown strategy": (["masking.strategy=blok"], ["masking.strategy 'blok'", "did you mean 'block'"]),
    "unknown device": (["device=gpu0"], ["unknown device 'gpu0'"]),
    "unknown patches to judge": (["losses.over=visible"], ["losses.over=visible"]),
    "indivisible image": (["data.image_size=60", "model.patch_size=8"], ["60x60", "data.image_size"]),
    "nothing visible": (["masking.ratio=0.99"], ["masking.ratio=0.99"]),
    "both lengths": (["train.steps=3", "train.epochs=3"], ["train.steps", "train.epochs"]),
    "too large a seed": (["seed=99999999999999999999"], ["seed"]),
    "a negative rate of a critic": (["loss=mse+adversarial", "losses.adversarial.lr=-1"], ["losses.adversarial.lr"]),
    "no name": (["resume=true"], ["name=NAME"]),
    "no such run": (["resume=true", "name=nothing"], ["no run runs/nothing"]),
    "a name with a slash": (["name=a/b"], ["name=a/b"]),
    "a value that stands for nothing": (["name=${7*7}"], ["setting name", "7*7"]),
    "unknown flag": (["--sede=1"], ["--sede"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_one_line_and_leaves_nothing(type_in, tmp_path, pictures, what):
    arguments, said = WRONG[what]
    status, out, err = type_in(*TINY, "data=folder", f"data.root={pictures}", *arguments)
    assert status == 2
    assert len(err.splitlines()) == 1 and out == ""
    assert all(words in err for words in said), err
    assert list(tmp_path.iterdir()) == []


def test_the_whole_way_ends_with_one_line_too(tmp_path):
    """The real command in a real process."""
    words = ["optim.base_lrr=1", "loss=mse"]
    ended = subprocess.run(
        [sys.executable, "-m", "recon.pretrain", *words], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert re.fullmatch(r"unknown setting 'optim\.base_lrr'; did you mean 'optim\.base_lr'\?.*\n", ended.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_the_dataset_is_named(type_in, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("folder", "imagenette", "cifar10"):
        status, out, err = type_in("loss=mse", f"data={name}", "data.root=empty")
        assert status == 2 and len(err.splitlines()) == 1 and "empty" in err and out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_in_a_sweep_the_other_runs_go_on_after_one_that_cannot(type_in):
    ran = []
    status, _, err = type_in("-m", "loss=mse,mes,l1", task=lambda s, given: _refuse_mes(s, ran))
    assert status == 2 and ran == ["mse", "l1"] and len(err.splitlines()) == 1


def _refuse_mes(settings: Settings, ran: list[str]) -> int:
    if settings.loss == "mes":
        raise command.InvalidSetting("unknown loss term 'mes'")
    ran.append(settings.loss)
    return 0


@pytest.mark.parametrize(("status", "runs"), [(0, 3), (1, 3), (130, 1), (143, 1)])
def test_a_signal_ends_a_whole_sweep_and_a_diverged_run_does_not(type_in, status, runs):
    """128 + N is what a run stopped by signal N returns; the next run must not begin."""
    begun = []
    ended = type_in("-m", "seed=1,2,3", task=lambda settings, given: begun.append(settings.seed) or status)
    assert ended[0] == status and begun == [1, 2, 3][:runs]


def test_the_exit_status_is_the_run_s(type_in):
    assert type_in(task=lambda settings, given: 143)[0] == 143


def test_a_sweep_trains_sibling_runs_as_each_alone_and_leaves_nothing_else(type_in, tmp_path, pictures):
    status, out, err = type_in("-m", *RUN, "data=folder", f"data.root={pictures}", "loss=mse,mse+0.5*l1")
    assert status == 0, err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    folders = sorted((tmp_path / "runs").iterdir(), key=lambda folder: len(folder.name))
    assert [folder.name.rsplit("-", 3)[0] for folder in folders] == ["mse", "mse+0.5xl1"]
    assert all(f"{folder.relative_to(tmp_path)}" in out for folder in folders)
    left = {path.name for path in tmp_path.rglob("*")}
    assert not left & {"multirun", "multirun.yaml", "outputs", ".hydra", "pretrain.log"}
    for folder, loss in zip(folders, ("mse", "mse+0.5*l1"), strict=True):
        alone = small_run(tmp_path / "runs", pictures, loss.replace("*", "x"), f"loss={loss}", "train.steps=2")
        assert differences(state_of(alone), state_of(folder)) == []


def test_other_settings_are_refused_to_a_run_that_goes_on_and_nothing_changes(type_in, tmp_path, pictures):
    small_run(tmp_path, pictures, "mine", "loss=mse", "train.steps=2")
    before = contents(tmp_path)
    for words, said in {
        ("loss=l1",): "loss=l1 (was mse)",
        ("train.steps=3",): "train.steps=3 (was 2)",
        ("optim.base_lr=1", "seed=5"): "seed=5 (was 0)",
        ("model=small",): "model.name=small (was nano)",
    }.items():
        status, out, err = type_in("name=mine", "resume=true", *words)
        assert status == 2 and out == "" and len(err.splitlines()) == 1 and said in err
        assert contents(tmp_path) == before
    status, out, err = type_in("name=mine", "loss=mse", f"data.root={pictures}", "data=folder")
    assert status == 2 and "runs/mine exists" in err and "resume=true" in err
    assert contents(tmp_path) == before


def test_a_run_goes_on_with_harmless_settings_and_those_it_had(type_in, tmp_path, pictures):
    small_run(tmp_path, pictures, "mine", "loss=mse", "train.steps=2")
    status, _, err = type_in("name=mine", "resume=true", "loss=mse", "train.steps=2", "train.log_every=1")
    assert status == 0, err
    config = yaml.safe_load((tmp_path / "runs" / "mine" / "config.yaml").read_text())
    assert config["train"]["log_every"] == 1 and config["model"]["decoder_depth"] == 1
    assert read_checkpoint(tmp_path / "runs" / "mine" / CHECKPOINT)["step"] == 2


def raises_of_cuda(settings, given):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize(
    "task",
    [lambda *_: torch.empty(1 << 56, dtype=torch.uint8), lambda *_: bytearray(1 << 56), raises_of_cuda],
    ids=["torch", "python", "cuda"],
)
def test_where_memory_runs_out_one_line_says_what_to_lower(type_in, task):
    """The first two ask for more than any machine has; in a sweep the other run is tried all the same."""
    status, out, err = type_in("-m", "data=photos", "seed=0,1", task=task)
    assert (status, out) == (2, "")
    assert err == "out of memory; lower batch.per_device\n" * 2


def test_other_failures_are_not_taken_for_a_want_of_memory(type_in):
    def broken(settings, given):
        raise RuntimeError("a kernel failed")

    with pytest.raises(RuntimeError, match="a kernel failed"):
        type_in("seed=0", task=broken)
