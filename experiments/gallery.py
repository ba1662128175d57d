"""One picture of the same held-out images under several runs.

python -m experiments.gallery runs/A runs/B runs/C --out gallery.png
"""

import argparse
import sys
from pathlib import Path

import torch

from losses import InvalidSetting
from recon import config
from recon.data import create_dataset, held_out_images
from recon.loaded_run import load_run
from recon.report.pictures import reconstruction_rows, write_rows
from recon.training.preview import Preview, baseline, held_out_figures
from recon.training.setup import masking_of


def gallery(folders: list[Path], images: int, out: Path, draws: int = 1) -> None:
    """Truth and masked input, then a row of composites per run, its masked PSNR beside it.

    A run that predicts a distribution has a row for each of so many `draws`, in place of its mean.

    Raises:
        InvalidSetting: a folder holds no trained run, one of features without pixels, or the runs differ in data, image
            size, patches or masking.
    """
    rows: dict[str, torch.Tensor] = {}
    first = None
    for folder in folders:
        trained = load_run(folder)
        if trained.undrawable:
            raise InvalidSetting(trained.undrawable)
        settings, model = trained.settings, trained.model
        setup = (settings.data.name, config.image_size(settings), model.patch_size, settings.masking, settings.seed)
        first = first or setup
        if setup != first:
            raise InvalidSetting(f"{folder} differs from {folders[0]} in data, size, masking or seed: not comparable")
        data = settings.data
        source = create_dataset(data.name, "val", data.root)
        masking = masking_of(settings, model)
        held_out, noise, _ = held_out_images(source, config.image_size(settings), images, settings.seed, masking)
        (r,) = Preview(held_out, noise, images).reconstruct(model)
        title = trained.resolved["objective"].replace(" + ", "\n+ ")  # a line each: the margin is narrow
        answers = {title: r}
        if model.head.renderings:
            title += f" from {settings.losses.flow.source}" if model.head.name == "flow" else ""
            answers = {f"{title}\ndraw {i + 1}": model.render(r.image, r.mask, "sample", i) for i in range(draws)}
        for title, answer in answers.items():
            seen = held_out_figures([answer])
            shown = reconstruction_rows(answer.image, answer.hidden_pixels, answer.composite)
            given = {"masked": shown["masked"]}
            if answer.corrupted is not None:
                given = {"corrupted": answer.corrupted.clamp(0, 1)}
            rows |= {"truth": shown["truth"]} | given
            numbers = f"{seen['masked_psnr']:.2f} dB\ndetail {seen.get('detail', float('nan')):.2f}"
            rows[f"{title}\n{numbers}"] = shown["reconstruction"]
    caption = f"masked PSNR over these images ({baseline(seen)}); detail: squared gradient over the truth's"
    write_rows(rows, caption, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--draws", type=int, default=1, help="of a run that predicts a distribution")
    parser.add_argument("--out", type=Path, default=Path("gallery.png"))
    options = parser.parse_args()
    try:
        gallery(options.runs, options.images, options.out, options.draws)
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(options.out)


if __name__ == "__main__":
    main()
