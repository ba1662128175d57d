"""The layers of docs/architecture.md: imports point down, a file's name says which one is meant, no file is a book."""

import ast
import importlib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("losses", "recon") for path in (ROOT / folder).rglob("*.py"))
# From below: a package or module imports of the layers below its own, and of its own package.
LAYERS = [
    {"losses"},
    {"config", "folder_lock"},
    {"saved_settings", "result_table", "study_config", "console", "neighbours", "metrics", "data", "model"},
    {"run_folder", "baselines", "distributed", "scoreboard"},
    {"report", "run_listing"},
    {"training"},
    {"loaded_run"},
    {"evaluation", "probing"},
    {"dense"},
    {"comparison", "model_card"},
    {"sweep"},
    {"cli"},
    {"pretrain", "evaluate", "compare", "probe", "transfer", "convert", "pack", "tokenizer", "runs"},
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}


def part(module: str) -> str:
    """ "recon.model.mae" -> "model"."""
    words = module.split(".")
    return words[0] if words[0] == "losses" else words[1]


def imported(path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it but for annotations alone."""
    tree, found = ast.parse(path.read_text()), set()
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"recon.{a.name}" for a in node.names} if node.module == "recon" else {node.module}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return {module for module in found if module.split(".")[0] in ("losses", "recon", "experiments", "tests")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imported(path):
        assert module.split(".")[0] not in ("experiments", "tests"), module
        assert part(module) == own or LEVEL[part(module)] < LEVEL.get(own, len(LAYERS)), module


def test_every_file_has_a_name_of_its_own():
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_a_file_is_a_chapter():
    assert [str(path) for path in FILES if len(path.read_text().splitlines()) > 300] == []


def test_what_experiments_take_from_the_packages_is_there():
    """No test runs most of them: a name that has moved would be noticed at their next use."""
    for path in sorted((ROOT / "experiments").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in (
                "losses",
                "recon",
                "experiments",
            ):
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    if not hasattr(module, name.name):
                        importlib.import_module(f"{node.module}.{name.name}")
