"""The command line: what it understands, and how it says what it does not."""

import re
import subprocess
import sys
import textwrap

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from recon import command
from recon.config import Settings, check, every_setting
from recon.settings_help import presets
from recon.training import checkpoint
from recon.training.pretraining import pretrain
from recon.training.run_folder import flat
from tests.recon.training.conftest import SMALL, contents, differences, save_pictures, small_run, state_of

RUN = [*(word for word in SMALL if not word.startswith("data.name")), "train.steps=2"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def type_in(tmp_path, monkeypatch, capfd):
    """Types a command in an empty folder: arguments -> exit status, stdout, stderr. `task` stands in for training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def typed(*arguments: str, task=pretrain) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            about = "Trains a masked autoencoder."
            command.run(task, command.Command("pretrain", about, less_memory="lower batch.per_device"))
        GlobalHydra.instance().clear()
        out, err = capfd.readouterr()
        return end.value.code or 0, out, err

    return typed


@pytest.fixture
def settings_of(type_in):
    """Arguments -> the settings and the given keys that training would be handed, one pair per run of a sweep."""

    def understood(*arguments: str) -> list[tuple[Settings, frozenset[str]]]:
        found = []
        status, _, err = type_in(*arguments, task=lambda settings, given: found.append((settings, given)))
        assert status == 0, err
        return found

    return understood


WRONG = {
    "unknown setting": (["lr=1"], ["unknown setting 'lr'"]),
    "mistyped setting": (["sed=1"], ["unknown setting 'sed'", "did you mean 'seed'"]),
    "mistyped nested setting": (["optim.base_lrr=1"], ["'optim.base_lrr'", "did you mean 'optim.base_lr'"]),
    "mistyped node": (["optm.base_lr=1"], ["'optm.base_lr'", "did you mean 'optim.base_lr'"]),
    "mistyped option of a term": (["losses.perceptual.weigths=random"], ["did you mean 'losses.perceptual.weights'"]),
    "no value": (["seed"], ["'seed'", "key=value"]),
    "text for a number": (["train.steps=many"], ["train.steps", "many"]),
    "a fraction for a count": (["batch.global=8.5"], ["batch.global", "8.5"]),
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
    "unknown flag": (["--sede=1"], ["--sede"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_one_line_and_leaves_nothing(type_in, tmp_path, pictures, what):
    arguments, said = WRONG[what]
    status, out, err = type_in("loss=mse", "data=folder", f"data.root={pictures}", *arguments)
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


def test_help_shows_every_setting_with_its_default_and_what_it_means(type_in):
    status, out, _ = type_in("--help")
    assert status == 0
    for s in every_setting():
        assert re.search(rf"^  {re.escape(s.key)}=\S* *\n? *{re.escape(s.doc)}$", out, re.MULTILINE), s.key
    for example in ("train.epochs=null", "loss=perceptual+mse", "optim.betas=[0.9,0.95]", "resume=false", "name=null"):
        assert f"  {example} " in out or f"  {example}\n" in out
    assert "-m loss=" in out and "preset=NAME" in out and "--config-dir" in out
    assert max(map(len, out.splitlines())) <= 160


def test_settings_arrive_typed(settings_of):
    ((settings, given),) = settings_of(
        "loss=mse + 0.1*l1 + 10%perceptual",
        "data=cifar10",
        "model=base",
        "data.image_size=[16,32]",
        "train.epochs=2.5",
        "optim.base_lr=1.5e-4",
        "compile=true",
        "losses.perceptual.taps=[conv1_1,conv3_1]",
    )
    assert settings.loss == "mse + 0.1*l1 + 10%perceptual"
    assert (settings.data.name, settings.model.name) == ("cifar10", "base")
    assert list(settings.data.image_size) == [16, 32] and settings.compile is True
    assert (settings.train.steps, settings.train.epochs) == (None, 2.5) and settings.optim.base_lr == 1.5e-4
    assert settings.losses.perceptual.taps == ["conv1_1", "conv3_1"]
    assert given == {
        *("loss", "data.name", "model.name", "data.image_size", "train.epochs", "optim.base_lr", "compile"),
        "losses.perceptual.taps",
    }


def test_without_arguments_come_the_defaults(settings_of):
    ((settings, given),) = settings_of()
    assert flat(settings) == flat(Settings()) and given == frozenset()


def test_equal_settings_are_equal():
    assert Settings() == Settings() != Settings(seed=1)


def test_a_sweep_makes_every_combination(settings_of):
    found = settings_of("-m", "loss=mse,perceptual+mse", "seed=1,2")
    assert [(settings.loss, settings.seed) for settings, _ in found] == [
        ("mse", 1),
        ("mse", 2),
        ("perceptual+mse", 1),
        ("perceptual+mse", 2),
    ]


def test_a_flag_may_stand_anywhere(settings_of):
    assert len(settings_of("seed=3", "-m", "loss=mse,l1")) == 2
    assert len(settings_of("seed=3", "loss=mse,l1", "--multirun")) == 2


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
    assert checkpoint.read(tmp_path / "runs" / "mine" / checkpoint.NAME)["step"] == 2


def test_a_preset_of_one_s_own(settings_of, tmp_path):
    folder = tmp_path / "mine" / "preset"
    folder.mkdir(parents=True)
    (folder / "slow.yaml").write_text(
        textwrap.dedent("""\
            # @package _global_
            train:
              steps: 12345
            optim:
              base_lr: 0.5
            """)
    )
    ((settings, given),) = settings_of("--config-dir=mine", "preset=slow", "optim.base_lr=0.25")
    assert settings.train.steps == 12345 and settings.optim.base_lr == 0.25 and "preset" in given
    ((again, _),) = settings_of("--config-dir", str(tmp_path / "mine"), "+preset=slow")
    assert again.train.steps == 12345 and again.optim.base_lr == 0.5


@pytest.mark.parametrize("preset", presets())
def test_every_preset_composes_and_passes(settings_of, preset):
    ((settings, _),) = settings_of(f"preset={preset}")
    check(settings)
    assert flat(settings) != flat(Settings())


def test_the_presets_for_real_work_are_there():
    assert set(presets()) >= {"cifar10", "imagenette", "imagenet_vitb16"}


def test_the_length_that_was_given_counts():
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        cfg = OmegaConf.merge(OmegaConf.structured(Settings), {"train": {"steps": 5, "epochs": 3}})
        train = command.typed(cfg, frozenset({f"train.{given}"})).train
        assert getattr(train, given) and getattr(train, other) is None


def raises_of_cuda(settings, given):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize(
    "task",
    [lambda *_: torch.empty(1 << 56, dtype=torch.uint8), lambda *_: bytearray(1 << 56), raises_of_cuda],
    ids=["torch", "python", "cuda"],
)
def test_where_memory_runs_out_one_line_says_what_to_lower(type_in, task):
    """The first two ask for more than any machine has; in a sweep the other run is tried all the same."""
    status, out, err = type_in("-m", "seed=0,1", task=task)
    assert (status, out) == (2, "")
    assert err == "out of memory; lower batch.per_device\n" * 2


def test_other_failures_are_not_taken_for_a_want_of_memory(type_in):
    def broken(settings, given):
        raise RuntimeError("a kernel failed")

    with pytest.raises(RuntimeError, match="a kernel failed"):
        type_in("seed=0", task=broken)
