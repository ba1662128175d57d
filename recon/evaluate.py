"""Command: how sharp and how faithful a run's reconstructions are."""

from losses import InvalidSetting
from recon.cli import Command, run
from recon.run_folder import missing
from recon.study_config import EvaluateSettings

COMMAND = Command(
    "evaluate",
    "Measures a run's reconstructions:  python -m recon.evaluate run=runs/NAME",
    EvaluateSettings,
    less_memory="lower batch",
)


def evaluate(settings: EvaluateSettings, given: frozenset[str]) -> int:
    if settings.run is not None and (why := missing(settings.run)):
        raise InvalidSetting(why)
    from recon.evaluation.evaluate_run import evaluate_run

    return evaluate_run(settings, given)


if __name__ == "__main__":
    run(evaluate, COMMAND)
