"""Makes the masked autoencoder that this package carries out of a finished run, in half precision.

    python -m recon.pack data=imagenette data.root=IMAGENETTE size=160 out=imagenette-160.pack
    python -m recon.pretrain preset=bundled_mae data.root=imagenette-160.pack name=bundled_mae
    python -m experiments.bundled_mae runs/bundled_mae

How well it does stands in experiments/records/bundled_mae.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from losses import InvalidSetting
from recon.evaluation.subject import open_run
from recon.model.bundled import FILE
from recon.model.checkpoints import read, write

LARGEST = 5_000_000  # bytes


def export(run: Path, out: Path) -> None:
    """Writes the model of a finished run.

    Raises:
        InvalidSetting: the run is not finished, or its model is too large to be carried.
    """
    if unfinished := open_run(run).unfinished:
        raise InvalidSetting(f"{run} is {unfinished}; let it finish first")
    checkpoint = read(run)
    halved = {name: tensor.to(torch.float16) for name, tensor in checkpoint.state.items()}
    size = sum(tensor.nbytes for tensor in halved.values())
    if size > LARGEST:
        raise InvalidSetting(f"{run} has {size:,} bytes in half precision, above {LARGEST:,}")
    out.unlink(missing_ok=True)
    write(replace(checkpoint, state=halved), out, "recon")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    try:
        export(options.run, options.out)
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(options.out)


if __name__ == "__main__":
    main()
