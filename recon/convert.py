"""Command: checkpoints of others read, and one's own written for others."""

from recon.cli import Command, run
from recon.conversion import ConvertSettings, convert

COMMAND = Command(
    "convert",
    "Converts a checkpoint:  python -m recon.convert input=mae_pretrain_vit_base.pth out=vitb.safetensors",
    ConvertSettings,
)

if __name__ == "__main__":
    run(convert, COMMAND)
