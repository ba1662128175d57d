"""The settings of all terms, which stand apart from the terms so that they need no torch."""

import ast
import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import losses
from losses import TERM_OPTIONS, TERMS, InvalidSetting, WeightedTerm, chosen, defaults, head_of

HEAVY = ("torch", "torchvision", "timm", "kornia", "lpips", "hydra", "omegaconf", "numpy")


LIGHT = [
    "import losses; losses.defaults()",
    "from losses import parse, defaults; str(parse('perceptual + 0.1*l1 + mse', defaults()))",
    "from losses import InvalidSetting, TERM_OPTIONS, nearest, option; nearest('msee', TERM_OPTIONS)",
    "from losses.options import tap_index; tap_index('conv3_1')",
    "import recon.config",
]
OF_PIXELS = "import losses; losses.MSE"


def imported_after(*lines: str) -> list[set[str]]:
    """Those of `HEAVY` that a new process has imported after each of the lines of code."""
    said = f"print(*(name for name in {HEAVY} if name in sys.modules))"
    program = "\n".join(["import sys", *(f"{code}\n{said}" for code in lines)])
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    return [set(line.split()) for line in run.stdout.splitlines()]


def test_settings_and_expressions_import_nothing_slow():
    assert imported_after(*LIGHT) == [set()] * len(LIGHT)


@pytest.mark.slow  # torch in a new process; the next test is the same law, of the code
def test_an_objective_of_pixels_has_imported_no_network_library():
    (found,) = imported_after(OF_PIXELS)
    assert "torch" in found <= {"torch", "numpy"}


def needed(module: str) -> set[str]:
    """Packages that importing a module of `losses` imports, by the statements outside its functions."""
    body, found = (
        ast.parse((Path(losses.__file__).parents[1] / f"{module.replace('.', '/')}.py").read_text()).body,
        set(),
    )
    for statement in body:
        if isinstance(statement, ast.Import):
            found |= {alias.name.split(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            own = statement.module.startswith("losses.")
            found |= needed(statement.module) if own else {statement.module.split(".")[0]}
    return found


def test_an_objective_of_pixels_imports_no_network_library():
    assert "torch" in needed("losses.pixel") & set(HEAVY) <= {"torch", "numpy"}


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


def test_every_number_has_a_range_beside_its_default_and_is_refused_beyond_it():
    for name, options in TERM_OPTIONS.items():
        for field in dataclasses.fields(options):
            if not any(kind in str(field.type) for kind in ("int", "float")):
                continue
            assert field.metadata["limits"], f"losses.{name}.{field.name}"
            many = "list" in str(field.type)
            for value in (float("nan"), float("inf"), -float("inf"), -1, 2**63, True, "many"):
                with pytest.raises(InvalidSetting, match=rf"^losses\.{name}\.{field.name}=") as error:
                    head_of(name, **{name: {field.name: [value] if many else value}})
                assert "\n" not in str(error.value)
