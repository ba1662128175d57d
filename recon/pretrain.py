"""Command: train a masked autoencoder under one objective, or under many (`-m`)."""

from recon.cli import Command, run
from recon.config import Settings
from recon.console import check_trackers
from recon.run_folder import existing

COMMAND = Command(
    "pretrain",
    "Trains a masked autoencoder:  python -m recon.pretrain loss=perceptual+mse",
    less_memory="lower batch.per_device (gradients are then accumulated), or set model.gradient_checkpointing=true",
)


def pretrain(settings: Settings, given: frozenset[str]) -> int:
    check_trackers(settings)  # a package or a run that is missing is told at once
    if settings.resume:
        existing(settings)
    from recon.training.pretraining import pretrain

    return pretrain(settings, given)


if __name__ == "__main__":
    run(pretrain, COMMAND)
