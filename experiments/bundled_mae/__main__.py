"""Makes the masked autoencoders that this package carries out of finished runs, in half precision.

    python -m recon.pack data=imagenette data.root=IMAGENETTE size=160 out=imagenette-160.pack
    python -m recon.pretrain preset=bundled_mae data.root=imagenette-160.pack name=bundled_mae
    python -m experiments.bundled_mae runs/bundled_mae                  # init=bundled
    python -m recon.pretrain preset=refiner64 data.root=imagenette-160.pack loss=feature_matching+mse name=sharp
    python -m experiments.bundled_mae runs/sharp                        # init=bundled_sharp

How well they do stands in experiments/records/bundled_mae.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from losses import InvalidSetting
from losses.tensor_files import to_bytes
from recon.loaded_run import open_run
from recon.model.bundled import BASE, FILE, REFINER
from recon.model.formats import Checkpoint, read, write
from recon.run_folder import write_bytes

LARGEST = 5_000_000  # bytes, of both files


def export(run: Path) -> Path:
    """Writes the model of a finished run; of one with a refiner, the refiner alone.

    Raises:
        InvalidSetting: the run is not finished, its refiner stands behind another model than the bundled one, or the
            files are too large to be carried.
    """
    if unfinished := open_run(run).unfinished:
        raise InvalidSetting(f"{run} is {unfinished}; let it finish first")
    checkpoint = read(run)
    halved = {name: tensor.to(torch.float16).contiguous() for name, tensor in checkpoint.state.items()}
    if (size := sum(tensor.nbytes for tensor in halved.values())) > LARGEST:
        raise InvalidSetting(f"{run} would make {size:,} bytes in half precision, above {LARGEST:,}")
    refiner = {name: tensor for name, tensor in halved.items() if name.startswith("refiner.")}
    if refiner:
        _check_base(run, checkpoint)
        write_bytes(REFINER, to_bytes(refiner, {BASE: read(FILE).sha256}))
        return REFINER
    FILE.unlink(missing_ok=True)
    write(replace(checkpoint, state=halved), FILE, "recon")
    return FILE


def _check_base(run: Path, checkpoint: Checkpoint) -> None:
    """Raises InvalidSetting where all but the refiner is not the bundled model to the bit."""
    weights = {name: tensor for name, tensor in read(FILE).state.items() if not name.endswith("pos_embed")}  # a formula
    own = checkpoint.state
    if any(name not in own or not torch.equal(tensor.float(), own[name]) for name, tensor in weights.items()):
        raise InvalidSetting(f"{run} has trained more than the refiner; begin with init=bundled train.parts=refiner")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    try:
        print(export(parser.parse_args().run))
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
