"""Command: what a run's representation is worth."""

from recon.command import Command, run
from recon.probes.command import probe
from recon.probes.settings import ProbeSettings

COMMAND = Command(
    "probe",
    "Probes a run's encoder:  python -m recon.probe run=runs/NAME",
    ProbeSettings,
    less_memory="lower batch; probes that train have smaller batches under probe.recipe=small",
)

if __name__ == "__main__":
    run(probe, COMMAND)
