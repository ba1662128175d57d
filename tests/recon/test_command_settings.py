"""Which settings the words of a command line mean: types, defaults, sweeps, presets, help."""

import re
import textwrap

import pytest
from omegaconf import OmegaConf

from recon import cli as command
from recon.config import Settings, check, every_setting
from recon.console import presets
from recon.saved_settings import flat


def test_help_shows_every_setting_with_its_default_and_what_it_means(type_in):
    status, out, _ = type_in("--help")
    assert status == 0
    for s in every_setting():
        assert re.search(rf"^  {re.escape(s.key)}=\S* *\n? *{re.escape(s.doc)}$", out, re.MULTILINE), s.key
    for example in ("train.steps=null", "loss=norm_mse", "optim.betas=[0.9,0.95]", "resume=false", "name=null"):
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


def test_a_preset_of_one_s_own(settings_of, tmp_path):
    folder = tmp_path / "mine" / "preset"
    folder.mkdir(parents=True)
    (folder / "slow.yaml").write_text(
        textwrap.dedent("""\
            # @package _global_
            train:
              steps: 12345
              epochs: null
            optim:
              base_lr: 0.5
            """)
    )
    ((settings, given),) = settings_of("--config-dir=mine", "preset=slow", "optim.base_lr=0.25")
    assert settings.train.steps == 12345 and settings.optim.base_lr == 0.25 and "preset" in given
    ((again, _),) = settings_of("--config-dir", str(tmp_path / "mine"), "+preset=slow")
    assert again.train.steps == 12345 and again.optim.base_lr == 0.5
    check(settings)


@pytest.mark.parametrize("preset", presets())
def test_every_preset_composes_and_passes(settings_of, preset):
    ((settings, _),) = settings_of(f"preset={preset}")
    check(settings)
    assert flat(settings) != flat(Settings())


def test_the_presets_for_real_work_are_there():
    assert set(presets()) >= {"cifar10", "demo", "imagenette", "imagenet_vitb16"}


def test_the_length_that_was_given_counts():
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        cfg = OmegaConf.merge(OmegaConf.structured(Settings), {"train": {"steps": 5, "epochs": 3}})
        train = command.typed(cfg, frozenset({f"train.{given}"})).train
        assert getattr(train, given) and getattr(train, other) is None
