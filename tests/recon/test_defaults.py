"""The paper's defaults at every size, and when the demonstration is taken."""

import shlex

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from recon.cli import DEMO_TAKEN, means_demo, understood
from recon.config import Settings, check
from recon.console import presets, written
from recon.model import SIZES, create_model
from recon.pretrain import COMMAND
from recon.probe import COMMAND as PROBE
from recon.saved_settings import flat

PAPER = {  # arXiv 2111.06377, table 8; 40 of 800 epochs are warm-up
    "loss": "norm_mse",
    "data.name": "imagenet",
    "data.image_size": 224,
    "model.patch_size": None,
    "model.decoder_width": None,
    "model.decoder_depth": None,
    "model.mask_tokens": "decoder",
    "masking.strategy": "random",
    "masking.ratio": 0.75,
    "masking.decoded": 1.0,
    "train.steps": None,
    "train.epochs": 800,
    "batch.size": 4096,
    "optim.base_lr": 1.5e-4,
    "optim.betas": [0.9, 0.95],
    "optim.weight_decay": 0.05,
    "optim.warmup": 0.05,
    "optim.clip": None,
    "losses.over": "hidden",
}
PATCHES = {"nano": 8, "tiny": 16, "small": 16, "base": 16, "large": 16, "huge": 14}
DEMO = {
    "loss": "perceptual+mse",
    "data.name": "photos",
    "data.image_size": 64,
    "model.name": "nano",
    "model.patch_size": 8,
    "train.epochs": None,
    "batch.size": 32,
}


def takes_demo(*words: str) -> bool:
    return understood(list(words), COMMAND)[-1]


def assert_has(settings: Settings, wanted: dict) -> None:
    values = flat(settings)
    assert {key: values[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", SIZES)
def test_every_model_has_the_paper_s_settings_and_a_patch_size_of_its_own(settings_of, name):
    ((settings, given),) = settings_of(f"model={name}")
    assert_has(settings, PAPER | {"model.name": name})
    assert flat(settings) == flat(Settings()) | {"model.name": name} and given == {"model.name"}
    check(settings)
    with torch.device("meta"):
        model = create_model(name, image_size=settings.data.image_size, patch_size=settings.model.patch_size)
    assert model.patch_size == PATCHES[name]


def test_the_default_model_is_the_paper_s():
    assert_has(Settings(), PAPER | {"model.name": "base"})


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("loss=mse", "seed=1"),
        ("model.patch_size=4", "data.image_size=32"),
        ("resume=false",),
        ("name=mine", "train.steps=3"),
        ("-m", "loss=mse,l1"),
    ],
)
def test_the_demonstration_is_taken_where_nothing_of_one_s_own_is_named(words):
    assert takes_demo(*words)


@pytest.mark.parametrize(
    "words",
    [
        ("data=folder", "data.root=pictures"),
        ("data.name=photos",),
        ("data.root=pictures",),
        ("model=nano",),
        ("model.name=base",),
        ("preset=imagenette",),
        ("+preset=demo",),
        ("name=mine", "resume=true"),
        ("-m", "model=nano,tiny"),
        ("-m", "preset=cifar10,imagenette"),
        ("-m", "preset=glob(*)"),
        ("-m", "name=mine,yours", "resume=true"),
    ],
)
def test_the_demonstration_is_not_taken_where_something_of_one_s_own_is_named(words):
    assert not takes_demo(*words)


@pytest.mark.parametrize(
    "start", ["none", "bundled", "bundled_sharp", "null", "'none'", "none,bundled", "'none','bundled'"]
)
def test_no_start_and_the_bundled_one_name_nothing_of_one_s_own(start):
    assert means_demo(OverridesParser.create().parse_overrides([f"init={start}", "loss=mse"]))


@pytest.mark.parametrize("start", ["runs/mine", "vitb.pth", "none,runs/mine"])
def test_the_start_of_another_run_is_one_s_own(start):
    assert not means_demo(OverridesParser.create().parse_overrides([f"init={start}", "loss=mse"]))


def test_other_commands_have_no_demonstration():
    assert not understood(["scratch=small"], PROBE)[-1]


def test_what_is_given_overrides_the_demonstration(settings_of):
    ((settings, given),) = settings_of("loss=mse", "batch.size=16", "data.image_size=32")
    assert_has(settings, DEMO | {"loss": "mse", "batch.size": 16, "data.image_size": 32})
    assert given == {"loss", "batch.size", "data.image_size", "preset"}


@pytest.mark.parametrize("words", [(), ("preset=demo",)])
def test_the_length_that_is_given_is_the_demonstration_s_length(settings_of, words):
    ((settings, _),) = settings_of(*words, "train.epochs=2")
    assert (settings.train.steps, settings.train.epochs) == (None, 2)
    ((settings, _),) = settings_of(*words, "train.steps=2")
    assert (settings.train.steps, settings.train.epochs) == (2, None)


def test_a_sweep_of_demonstrations(settings_of):
    found = settings_of("-m", "loss=mse,l1", "seed=3")
    assert len(found) == 2
    for (settings, _), loss in zip(found, ("mse", "l1"), strict=True):
        assert_has(settings, DEMO | {"loss": loss, "seed": 3})


@pytest.mark.parametrize("words", [("loss=mse",), ("-m", "loss=mse,l1")])
def test_that_it_is_taken_is_said_in_one_line(type_in, words):
    status, out, err = type_in(*words, task=lambda settings, given: None)
    assert (status, out, err) == (0, f"{DEMO_TAKEN}\n", "")


@pytest.mark.parametrize("words", [("data=photos",), ("preset=demo",), ("name=mine", "resume=true")])
def test_nothing_is_said_where_it_is_not_taken(type_in, words):
    assert type_in(*words, task=lambda settings, given: None) == (0, "", "")


def test_help_says_when_it_is_taken_and_is_no_run(type_in):
    _, out, _ = type_in("--help")
    assert "preset=demo is taken" in out and DEMO_TAKEN not in out


def test_the_settings_that_are_shown_are_those_that_would_be_used(type_in, settings_of):
    ((used, _),) = settings_of("loss=mse")
    _, out, _ = type_in("--cfg", "job", "loss=mse")
    assert out.splitlines()[0] == f"# {DEMO_TAKEN}"
    assert yaml.safe_load(out)["data"] == vars(used.data) and yaml.safe_load(out)["train"] == vars(used.train)


@pytest.mark.parametrize("words", [(), ("model=base",), *((f"preset={name}",) for name in presets())])
def test_a_command_that_is_printed_gives_the_settings_it_was_printed_from(settings_of, words):
    """Also where these are the defaults, and the least is printed."""
    ((settings, _),) = settings_of(*words)
    typed = shlex.split(written("pretrain", settings))[3:]
    ((again, _),) = settings_of(*typed)
    assert flat(again) == flat(settings)
