"""Command: what a run's encoder is worth for detection and segmentation."""

from losses import InvalidSetting
from recon.cli import Command, run
from recon.run_folder import missing
from recon.study_config import TransferSettings

COMMAND = Command(
    "transfer",
    "Transfers a run's encoder to detection or segmentation:  python -m recon.transfer run=runs/NAME task=detection",
    TransferSettings,
    less_memory="set transfer.gradient_checkpointing=true, or lower data.image_size",
)


def transfer(settings: TransferSettings, given: frozenset[str]) -> int:
    if settings.run is not None and (why := missing(settings.run)):
        raise InvalidSetting(why)
    from recon.dense.transfer_run import transfer

    return transfer(settings)


if __name__ == "__main__":
    run(transfer, COMMAND)
