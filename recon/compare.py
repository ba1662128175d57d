"""Command: many runs on the same images and masks, one report."""

from recon.cli import Command, run
from recon.comparison.compare_runs import compare
from recon.study_config import CompareSettings

COMMAND = Command(
    "compare",
    "Compares runs in one report:  python -m recon.compare runs/A runs/B",
    CompareSettings,
    "runs",
    less_memory="lower batch",
)

if __name__ == "__main__":
    run(compare, COMMAND)
