"""Command: list the runs of a folder."""

from dataclasses import dataclass, field
from pathlib import Path

from losses import option
from recon.cli import Command, run
from recon.console import one_line
from recon.run_folder import RUNS
from recon.run_listing import as_json, as_table, list_runs, ordered


@dataclass
class RunsSettings:
    folders: list[str] = field(default_factory=list, metadata={"doc": "folders of runs; simply typed, by default runs"})
    sort: str | None = option(None, "column to sort by, also one that --json alone shows; numbers from the highest")
    json: bool = option(False, "print JSON, with all columns; --json is short for it")


COMMAND = Command(
    "runs",
    "Lists runs, how far they are, and their numbers:  python -m recon.runs [FOLDER] [sort=psnr] [--json]",
    RunsSettings,
    "folders",
    switches=("json",),
)


def runs(settings: RunsSettings, given: frozenset[str] = frozenset()) -> int:
    """Prints the runs in the folders; returns the exit status.

    Raises:
        InvalidSetting: a folder cannot be read, or there is no such column.
    """
    folders = settings.folders or [str(RUNS)]
    found = ordered(list_runs(map(Path, folders)), settings.sort)
    if settings.json:
        print(as_json(found))
    else:
        print(as_table(found) if found else f"no runs in {one_line(', '.join(folders))}")
    return 0


if __name__ == "__main__":
    run(runs, COMMAND)
