"""The probing command as it is typed, in a process of its own; one that is killed leaves what was there."""

import os
import signal
import subprocess
import sys
import time

import pytest

from recon.probing import probe_results as record
from tests.recon.comparison.test_processes import ROOT, typed

pytestmark = pytest.mark.slow

QUICK = ["device=cpu", "probe.seeds=1", "probe.fractions=[0.1]"]


def test_the_command_prints_a_table_and_says_where_the_numbers_are(copy):
    done = typed(copy, "probe", "run=runs/small", "probe=knn", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "knn, k=20, class token of block 4" in done.stdout and "raw pixels" in done.stdout
    assert "all numbers  runs/small/probe.json" in done.stdout and "overlapping tiles" in done.stdout
    assert record.read(copy / "runs/small") is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=runs/nowhere"], "there is no run runs/nowhere"),
        (["run=runs/small", "data=folder", "data.root=runs"], "data.root=runs holds one image"),
        (["run=runs/small", "probe.epochs=0"], "probe.epochs=0.0 must be above 0"),
        (["run=runs/small", "prob=knn"], "unknown setting 'prob'; did you mean 'probe.k"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(copy, words, said):
    done = typed(copy, "probe", *words)
    assert done.returncode == 2
    assert said.split("'; did")[0] in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (copy / "runs/small/probe.json").exists()


def test_a_killed_probing_leaves_the_earlier_results(copy):
    assert typed(copy, "probe", "run=runs/small", "probe=knn", *QUICK).returncode == 0
    before = [(copy / "runs/small" / name).read_bytes() for name in (record.JSON, record.TENSORS)]
    assert record.read(copy / "runs/small") is not None
    line = [sys.executable, "-m", "recon.probe", "run=runs/small", "probe=finetune", "probe.epochs=5000", *QUICK]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, cwd=copy, env=environment, stderr=subprocess.PIPE, text=True)
    while "finetune" not in process.stderr.readline():  # it trains
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [(copy / "runs/small" / name).read_bytes() for name in (record.JSON, record.TENSORS)] == before
