"""A small run, and probings of it as the command makes them."""

import contextlib
import shutil
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from recon.cli import typed
from recon.probing import frozen
from recon.probing import probe_run as command
from recon.probing.linear import linear_probe
from recon.probing.probe_results import ProbeRecord, read
from recon.study_config import ProbeSettings

QUICK = ("device=cpu", "precision=fp32", "probe.seeds=2", "probe.fractions=[1]")


@pytest.fixture(scope="session")
def run(mse_run, tmp_path_factory) -> Path:
    """A run of three steps on the embedded photographs at 16 pixels."""
    return Path(shutil.copytree(mse_run, tmp_path_factory.mktemp("probed") / "runs/small"))


@pytest.fixture(scope="session")
def both(run) -> ProbeRecord:
    """Linear and kNN of the run and of the controls, at two shares of the labels; leaves their features in the run."""
    return probed(run.parents[1], f"run={run}", "probe.name=linear+knn", "probe.fractions=[0.1,1]")


@pytest.fixture
def copy(run, both, tmp_path) -> Path:
    """The run with its features, not probed, in a place of its own; returns the place."""
    shutil.copytree(run, tmp_path / "runs/small", ignore=shutil.ignore_patterns("probe.*"))
    return tmp_path


def probed(place: Path, *words: str) -> ProbeRecord:
    """`python -m recon.probe ...` in the folder `place`; the record it left."""
    given = frozenset(word.partition("=")[0] for word in words)
    settings = OmegaConf.merge(OmegaConf.structured(ProbeSettings), OmegaConf.from_dotlist([*QUICK, *words]))
    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        # What the classifiers reach is not asked here.
        patch.setattr(frozen, "linear_probe", partial(linear_probe, decays=(10.0, 1.0)))
        settings = typed(settings, given)
        assert command.probe(settings, given) == 0
        folder = settings.run or "runs/scratch-nano-4-photos-16"
        return read(Path(folder))
