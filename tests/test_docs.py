"""The README and the docs: their commands are understood, their snippets run, their links lead somewhere."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from experiments.study import __main__ as study_command
from experiments.study.definition import names, path_of, read
from experiments.study.record import excerpt
from recon.cli import understood

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"python -m recon\.(\w+)((?: [^#\n`]*)?)")


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """(name, words) of every command of this project in code blocks and code spans."""
    text = page.read_text().replace("\\\n", " ")
    found = [(name, shlex.split(words)) for name, words in COMMAND.findall(text)]
    return [(name, [word for word in words if word != "..."]) for name, words in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_has_known_settings_alone(page):
    for name, words in commands(page):
        if name == "X":
            continue
        understood(words, importlib.import_module(f"recon.{name}").COMMAND)


def test_the_readme_has_commands_of_every_kind():
    named = {name for page in PAGES for name, _ in commands(page)}
    assert {"pretrain", "evaluate", "compare", "probe", "convert", "pack", "tokenizer"} <= named


def test_the_readme_s_snippet_runs():
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    prediction = torch.randn(2, 16, 192, requires_grad=True)
    mask = torch.rand(2, 16) < 0.75
    exec(snippet, {"prediction": prediction, "images": images, "mask": mask})
    assert prediction.grad is not None
    assert (prediction.grad[mask] != 0).any() and (prediction.grad[~mask] == 0).all()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


TABLE = re.compile(r"    python -m experiments\.study (\w+) columns=(\S+)\n\n((?:\|.*\n)+)")
RECORDED = [name for name in names() if (study_command.RECORDS / name / "values").is_dir()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_what_the_command_above_them_prints(page, capsys):
    text = page.read_text()
    assert len(TABLE.findall(text)) == len(re.findall(r"^ {4}python -m experiments\.study \w+ columns=\w", text, re.M))
    for name, columns, found in TABLE.findall(text):
        assert study_command.main([name, f"columns={columns}"]) == 0
        assert capsys.readouterr().out == found


def test_figures_of_studies_are_the_records():
    copies = list((ROOT / "docs").glob("study_*.png"))
    assert copies
    for copy in copies:
        record = study_command.RECORDS / copy.stem.removeprefix("study_")
        assert copy.read_bytes() == (record / "figure.png").read_bytes()


@pytest.mark.parametrize("name", RECORDED)
def test_the_page_of_a_record_is_of_its_values(name):
    study, folder = read(path_of(name)), study_command.RECORDS / name
    table = excerpt(study, study_command.measured(folder, name, study), list(study.measured))
    assert "\n".join(table) in (folder / "README.md").read_text()


@pytest.mark.slow
def test_the_readme_s_first_command_sharpens_what_it_starts_from(tmp_path):
    name, words = commands(ROOT / "README.md")[0]
    assert (name, words) == ("pretrain", ["loss=perceptual+mse"])
    done = subprocess.run(
        [sys.executable, "-m", f"recon.{name}", *words], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    after, before = map(float, re.search(r"detail of the truth's: ([\d.]+) \(before: ([\d.]+)\)", done.stdout).groups())
    assert after > 1.2 * before
    (picture,) = tmp_path.glob("runs/*/reconstructions.png")
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_the_quickstart_notebook_runs(tmp_path):
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment())
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    table = shown[-1]["text"].splitlines()
    assert [line.split()[0] for line in table[1:]] == ["bundled", "perceptual", "bundled_sharp"]
    detail = [float(line.split()[-3]) for line in table[1:]]
    assert detail == sorted(detail)


def environment() -> dict[str, str]:
    """Of a process in a folder of its own, in which `recon` and `losses` are found."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_the_readme_is_a_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
