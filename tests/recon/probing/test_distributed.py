"""Probing by real processes: two find what one finds, to the bit."""

import contextlib
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from recon.cli import typed
from recon.probing import probe_results as record
from recon.probing import probe_run as command
from recon.study_config import ProbeSettings
from tests.recon.launched import ranks, said, wait
from tests.recon.training.conftest import contents

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

# 1,183 training images are four batches, the last one smaller; 267 test images are one, and one process has none.
WORDS = [
    "run=runs/small",
    "device=cpu",
    "precision=fp32",
    "batch=300",
    "probe.name=linear+knn+partial",
    "probe.seeds=3",
    "probe.fractions=[0.1]",
    "probe.blocks=[0]",
    "probe.epochs=1",
    "probe.controls=false",
]
FILES = (record.JSON, record.TENSORS)


@pytest.fixture(scope="module")
def places(tmp_path_factory, run) -> tuple[Path, Path]:
    """Where one process has probed a run, and where two have."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    for place in (one, two):
        shutil.copytree(run, place / "runs/small", ignore=shutil.ignore_patterns("features", "probe.*"))
    launched = ranks(two, "probe", *WORDS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the two has: sums may be taken in another order by more
    with contextlib.chdir(one):
        given = OmegaConf.from_dotlist(WORDS)
        assert command.probe(typed(OmegaConf.merge(OmegaConf.structured(ProbeSettings), given))) == 0
    torch.set_num_threads(threads)
    assert wait(*launched) == [0, 0], said(two)
    return one, two


def test_two_processes_write_the_files_that_one_writes(places):
    """Every byte: results, with what was chosen for each seed, and the features that are kept."""
    one, two = (contents(place / "runs/small") for place in places)
    assert one.keys() == two.keys() >= {*FILES}
    assert sum(name.startswith("features/") for name in one) == 1
    for name in one:
        assert one[name] == two[name], name


def test_every_probe_and_seed_is_answered_and_the_first_alone_prints(places):
    found = record.read(places[1] / "runs/small")
    assert {result.probe for result in found.results.values()} == {"linear", "knn", "partial"}
    assert {len(result.chosen) for result in found.results.values()} == {3}
    assert {result.per_image.shape for result in found.results.values()} == {(3, 267)}
    out = (places[1] / "out").read_text()
    assert out.count("267 test images of photos") == out.count("python -m recon.compare") == 1
