"""Command: what a run's representation is worth."""

from losses import InvalidSetting
from recon.cli import Command, run
from recon.run_folder import missing
from recon.study_config import ProbeSettings

COMMAND = Command(
    "probe",
    "Probes a run's encoder:  python -m recon.probe run=runs/NAME",
    ProbeSettings,
    less_memory="lower batch; probes that train have smaller batches under probe.recipe=small",
)


def probe(settings: ProbeSettings, given: frozenset[str]) -> int:
    if settings.run is not None and (why := missing(settings.run)):
        raise InvalidSetting(why)
    from recon.probing.probe_run import probe

    return probe(settings, given)


if __name__ == "__main__":
    run(probe, COMMAND)
