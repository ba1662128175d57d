"""The settings of all terms, which stand apart from the terms so that they need no torch."""

import dataclasses
import importlib.util
import subprocess
import sys

import pytest

import losses
from losses import TERM_OPTIONS, TERMS, InvalidSetting, WeightedTerm, chosen, defaults

HEAVY = ("torch", "torchvision", "timm", "kornia", "lpips", "hydra", "omegaconf", "numpy")


LIGHT = [
    "import losses; losses.defaults()",
    "from losses import parse, defaults; str(parse('perceptual + 0.1*l1 + mse', defaults()))",
    "from losses import InvalidSetting, TERM_OPTIONS, nearest, option; nearest('msee', TERM_OPTIONS)",
    "from losses.options import tap_index; tap_index('conv3_1')",
    "import recon.config",
]
OF_PIXELS = "import losses; losses.MSE"


def test_settings_import_nothing_slow_and_an_objective_of_pixels_no_network_library():
    """In one new process, which says after each line what it has imported of `HEAVY`."""
    said = f"print(*(name for name in {HEAVY} if name in sys.modules))"
    program = "\n".join(["import sys", *(f"{code}\n{said}" for code in [*LIGHT, OF_PIXELS])])
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    *light, of_pixels = (set(line.split()) for line in run.stdout.splitlines())
    assert light == [set()] * len(LIGHT), dict(zip(LIGHT, light, strict=True))
    assert "torch" in of_pixels <= {"torch", "numpy"}


def test_every_public_name_can_be_imported_and_is_listed():
    assert set(dir(losses)) == set(losses.__all__)
    assert all(getattr(losses, name) is not None for name in losses.__all__)
    assert importlib.util.find_spec("losses").origin.endswith("losses/__init__.py")
    with pytest.raises(AttributeError, match="Perceptuall"):
        losses.Perceptuall  # noqa: B018


def test_each_term_reads_the_settings_and_the_default_weight_that_stand_in_the_list():
    assert list(TERM_OPTIONS) == list(TERMS)
    for name, options in TERM_OPTIONS.items():
        assert TERMS[name].Options is options
        assert defaults()[name] == WeightedTerm(name, options.default_weight, options.default_is_share)
        assert all(field.metadata["doc"] for field in dataclasses.fields(options))


def test_a_value_that_is_not_known_is_refused_in_one_line_with_the_closest_one():
    chosen("losses.flow.source", "mean", ("mean", "noise"))
    with pytest.raises(InvalidSetting, match="choose mean or noise; did you mean 'noise'"):
        chosen("losses.flow.source", "nois", ("mean", "noise"))
