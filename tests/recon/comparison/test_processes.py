"""The commands as they are typed, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
QUICK = ["device=cpu", "images=6", "training_images=32", "ratios=[]", "pictures=2", "lpips.weights=nowhere.safetensors"]


def typed(place: Path, command: str, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", f"recon.{command}", *words]
    return subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, timeout=300)


def test_many_runs_become_one_report_which_is_not_a_run_itself(place):
    for _ in range(2):  # the second time runs/* has the report too
        runs = sorted(
            str(path.relative_to(place)) for path in (place / "runs").iterdir() if path != place / "runs/wide"
        )
        done = typed(place, "compare", *runs, *QUICK)
        assert done.returncode == 0, done.stderr
        assert "report  runs/comparison/index.html" in done.stdout
    report = place / "runs/comparison"
    assert (report / "index.html").read_text().count("<svg ") == len(list(report.glob("*.png"))) > 5


def test_one_run_is_evaluated(place):
    done = typed(place, "evaluate", "run=runs/one", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "6 held-out images of photos" in done.stdout and "python -m recon.compare" in done.stdout


@pytest.mark.parametrize(
    ("command", "words", "named"),
    [
        ("evaluate", [], "run=runs/NAME"),
        ("evaluate", ["run=runs/nobody"], "runs/nobody"),
        ("evaluate", ["run=runs/one", "image=3"], "did you mean 'images'"),
        ("evaluate", ["runs/one"], "'runs/one' is no setting"),
        ("compare", [], "python -m recon.compare"),
        ("compare", ["runs/nobody"], "runs/nobody"),
        ("compare", ["runs/one", "images=many"], "images"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(place, command, words, named):
    done = typed(place, command, *words)
    assert done.returncode == 2
    assert named in done.stderr and len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_help_lists_the_settings_of_this_command_alone(place, command):
    done = typed(place, command, "--help")
    assert done.returncode == 0
    assert "images=256" in done.stdout and "lpips.weights=null" in done.stdout
    assert "optim.base_lr" not in done.stdout and "preset" not in done.stdout
