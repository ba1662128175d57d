"""Help and mistakes are answered before torch is imported, which takes seconds."""

import subprocess
import sys

ASKED = """
import contextlib, importlib, io, sys
for words in {lines!r}:
    sys.argv, out, err = words, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            module = importlib.import_module("recon." + words[0])
            task = {{"pack": "pack_dataset", "tokenizer": "fit_tokenizer"}}.get(words[0], words[0])
            module.run(getattr(module, task), module.COMMAND)
        except SystemExit as end:
            status = end.code
    imported = [name for name in ("torch", "torchvision", "timm", "kornia", "numpy") if name in sys.modules]
    print([status, out.getvalue(), err.getvalue(), imported])
"""
COMMANDS = ("pretrain", "evaluate", "compare", "probe", "transfer", "convert", "pack", "tokenizer", "runs")
HELP = [[command, "--help"] for command in COMMANDS]
MISTYPED = [[command, "devise=cpu"] for command, _ in HELP]
MISSING = [
    ["pretrain", "name=nothing", "resume=true"],
    ["evaluate", "run=runs/nothing"],
    ["compare", "runs/nothing", "runs/less"],
    ["probe", "run=runs/nothing"],
    ["transfer", "run=runs/nothing"],
    ["runs", "runs/nothing"],
]


def test_help_mistyped_settings_and_missing_runs_need_no_torch(tmp_path):
    """All in one process: what one of them imports is there for the next."""
    lines = [*HELP, *MISTYPED, *MISSING]
    code = ASKED.format(lines=lines)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    answers = [eval(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines), done.stderr
    for words, (status, out, err, imported) in zip(lines, answers, strict=True):
        assert imported == [], words
        if words in HELP:
            assert status == 0 and "Settings (key=value)" in out, words
        else:
            absent = "runs/nothing cannot be listed" if words[0] == "runs" else "there is no run runs/nothing"
            said = "unknown setting" if words in MISTYPED else absent
            assert status == 2 and said in err and len(err.splitlines()) == 1, (words, err)


def test_a_file_of_the_user_in_place_of_losses_is_named(tmp_path):
    (tmp_path / "losses.py").write_text("")
    words = [sys.executable, "-m", "recon.pretrain", "loss=mse"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and str(tmp_path / "losses.py") in done.stderr, done.stderr
    (tmp_path / "losses.py").rename(tmp_path / "lossy.py")
    (tmp_path / "losses").mkdir()  # an empty folder hides nothing: a package comes before it
    done = subprocess.run([*words, "sed=1"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stderr.startswith("unknown setting 'sed'"), done.stderr
