"""Command: many runs on the same images and masks, one report."""

from losses import InvalidSetting
from recon.cli import Command, run
from recon.run_folder import missing
from recon.study_config import CompareSettings

COMMAND = Command(
    "compare",
    "Compares runs in one report:  python -m recon.compare runs/A runs/B",
    CompareSettings,
    "runs",
    less_memory="lower batch",
)


def compare(settings: CompareSettings, given: frozenset[str]) -> int:
    reasons = [missing(run) for run in settings.runs]
    if reasons and all(reasons):
        raise InvalidSetting("; ".join(filter(None, reasons)))
    from recon.comparison.compare_runs import compare

    return compare(settings, given)


if __name__ == "__main__":
    run(compare, COMMAND)
