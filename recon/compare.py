"""Command: many runs on the same images and masks, one report."""

from recon.command import Command, run
from recon.comparison.command import compare
from recon.comparison.settings import CompareSettings

COMMAND = Command(
    "compare",
    "Compares runs in one report:  python -m recon.compare runs/A runs/B",
    CompareSettings,
    "runs",
    less_memory="lower batch",
)

if __name__ == "__main__":
    run(compare, COMMAND)
