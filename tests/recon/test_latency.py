"""Help and mistakes are answered before torch is imported, which takes seconds."""

import subprocess
import sys

import pytest

ASKED = """
import runpy, sys
sys.argv = {words!r}
try:
    runpy.run_module("recon." + {command!r}, run_name="__main__", alter_sys=True)
except SystemExit as end:
    print("status", end.code)
print("imported", [name for name in ("torch", "torchvision", "timm", "kornia", "numpy") if name in sys.modules])
"""


@pytest.mark.parametrize("command", ["pretrain", "evaluate", "compare", "probe", "convert"])
@pytest.mark.parametrize(
    ("word", "status", "said"), [("--help", 0, "Settings (key=value)"), ("devise=cpu", 2, "unknown setting")]
)
def test_help_and_mistyped_settings_need_no_torch(command, word, status, said, tmp_path):
    code = ASKED.format(command=command, words=[command, word])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert said in done.stdout + done.stderr, done.stderr
    assert f"status {status}\nimported []" in done.stdout, done.stdout[-300:]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("pretrain", ["name=nothing", "resume=true"]),
        ("evaluate", ["run=runs/nothing"]),
        ("compare", ["runs/nothing", "runs/less"]),
        ("probe", ["run=runs/nothing"]),
    ],
)
def test_a_missing_run_needs_no_torch(command, words, tmp_path):
    code = ASKED.format(command=command, words=[command, *words])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "there is no run runs/nothing" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert "status 2\nimported []" in done.stdout, done.stdout[-300:]


def test_a_file_of_the_user_in_place_of_losses_is_named(tmp_path):
    (tmp_path / "losses.py").write_text("")
    words = [sys.executable, "-m", "recon.pretrain", "loss=mse"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and str(tmp_path / "losses.py") in done.stderr, done.stderr
    (tmp_path / "losses.py").rename(tmp_path / "lossy.py")
    (tmp_path / "losses").mkdir()  # an empty folder hides nothing: a package comes before it
    done = subprocess.run([*words, "sed=1"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.stderr.startswith("unknown setting 'sed'"), done.stderr
