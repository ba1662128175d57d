"""What the parts of an acceptance find: tables, goals and notes, saved one by one, and written as one page."""

import json
import math
import statistics
import time
import traceback
from pathlib import Path
from typing import Any

from recon.run_folder import write_text


class Findings:
    """What a part has found so far; every addition is saved at once, so that a cut loses nothing."""

    def __init__(self, file: Path):
        self.file = file
        self.page: dict[str, Any] = {"tables": {}, "goals": [], "notes": []}

    def row(self, table: str, **cells: Any) -> None:
        """A row of a table. Numbers, words, or a list of numbers of equal standing, such as turns."""
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in cells.items()}
        self.page["tables"].setdefault(table, []).append(finite)
        self._save()

    def goal(self, what: str, asked: float, measured: float, lower: bool = False) -> None:
        """A figure beside the one that was asked for; `lower`: at most, otherwise at least. The last one counts."""
        reached = measured <= asked if lower else measured >= asked
        asked_for = f"{'at most' if lower else 'at least'} {asked:g}"
        others = [goal for goal in self.page["goals"] if goal["goal"] != what]
        found = {"goal": what, "asked": asked_for, "measured": measured, "reached": bool(reached)}
        self.page["goals"] = [*others, found]
        self._save()

    def note(self, line: str) -> None:
        """A line of its own."""
        self.page["notes"].append(line)
        self._save()

    def end(self, how: str, error: BaseException | None = None) -> None:
        """The part's last word: `done`, or why not."""
        self.page["ended"] = how
        if error is not None:
            self.page["traceback"] = "".join(traceback.format_exception(error))[-4000:]
        self._save()

    def _save(self) -> None:
        write_text(self.file, json.dumps(self.page))


def read(file: Path) -> dict[str, Any]:
    """What a part has saved; nothing where it did not come to that."""
    return json.loads(file.read_text()) if file.exists() else {}


def report(page: dict[str, Any], out: Path) -> None:
    """Writes acceptance.json and acceptance.md."""
    page["date"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_text(out / "acceptance.json", json.dumps(page, indent=1) + "\n")
    write_text(out / "acceptance.md", markdown(page))


def markdown(page: dict[str, Any]) -> str:
    """The page of a run: goals first, then each part with its tables."""
    lines = ["# Acceptance", "", f"    {page['command']}", "", f"{page['date']}, {page['seconds']:.0f} s", ""]
    goals = [goal for found in page["parts"].values() for goal in found.get("goals", [])]
    if goals:
        lines += [*_table([goal | {"reached": "yes" if goal["reached"] else "**no**"} for goal in goals]), ""]
    for name, found in page["parts"].items():
        lines += [f"## {name}", "", f"{found['ended']} ({found['seconds']:.0f} s)", ""]
        lines += [f"- {note}" for note in found.get("notes", [])]
        lines += [""] if found.get("notes") else []
        for title, rows in found.get("tables", {}).items():
            lines += [f"**{title}**", "", *_table(rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [" | ".join(columns), "|".join("---" for _ in columns)]
    lines += [" | ".join(_cell(row.get(column)) for column in columns) for row in rows]
    return [f"| {line} |" for line in lines]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"{_cell(statistics.median(value))} ({_cell(min(value))} .. {_cell(max(value))})"
    if isinstance(value, float):
        return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
