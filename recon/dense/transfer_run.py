"""The command `python -m recon.transfer`: opens a run and scenes, trains heads, scores them, writes and prints."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from recon.console import Progress, aligned, command_line, duration, no_progress_bar, progress_bar
from recon.dense import transfer_pictures
from recon.dense import transfer_results as results
from recon.dense.detection import in_own_size
from recon.dense.encoder import DenseEncoder
from recon.dense.scenes import Scene, SceneSource, open_scenes
from recon.dense.scoring import InstanceScorer, class_map_scores, confusion
from recon.dense.segmentation import PatchNeighbours, class_map
from recon.dense.training import fit
from recon.dense.transfer_model import make_model, variant_of
from recon.dense.transfer_pictures import Pictures, row_of
from recon.dense.transfer_recipes import TransferRecipe, recipe_of
from recon.dense.transfer_results import SceneInfo, TransferRecord, TransferResult
from recon.dense.views import HeldOut, View, Views
from recon.distributed import TIMEOUT, Ranks, join
from recon.folder_lock import locked
from recon.loaded_run import LoadedRun, open_run
from recon.probing.features import ProbedEncoder, probed_encoders
from recon.probing.probe_results import EncoderInfo
from recon.probing.probe_run import run_caveats
from recon.run_folder import check_writable
from recon.study_config import TransferSettings, check_transfer
from recon.training.device import make_fabric

SIZES = {"dead_leaves": 96, "coco": 1024}  # pixels of the shorter side
OTHER_SIZE = 512
LONGER = 2  # longer side over shorter one, beyond which the longer one is what is resized to
DIGESTED = 16  # held-out scenes
BANK, BANK_BATCH = 20_000, 16  # patches of training images among which the nearest are sought; images at a time
FOLDER = "transfer"  # of checkpoints, within a run's


@dataclass(frozen=True)
class Context:
    """What all transfers of a command have in common."""

    settings: TransferSettings
    run: LoadedRun
    train: SceneSource
    held_out: SceneSource
    size: int
    digest: str
    fabric: Fabric
    ranks: Ranks
    pictures: Pictures

    @property
    def progress(self) -> Progress:
        return progress_bar if self.ranks.is_zero else no_progress_bar

    @property
    def classes(self) -> int:
        return len(self.train.classes)


def transfer(settings: TransferSettings) -> int:
    """Trains heads on a run's encoder and scores them on held-out scenes; writes the results and prints a table.

    What an earlier command has found is kept; a training that was stopped goes on. Under torchrun the processes share
    each batch of a training, and rank zero scores.

    Returns 0, or 128 + the number of the signal that stopped a training.

    Raises:
        InvalidSetting: no such run, no readable model, scenes or settings that cannot be used.
    """
    heads, began = check_transfer(settings), time.monotonic()
    ranks = join(TIMEOUT)
    with ranks.exit_together("the same command goes on"):
        with ranks.sync_errors():
            context = opened(settings, ranks)
            recipes = recipes_of(heads, context)
        folder = context.run.folder
        with ExitStack() as locks:
            ranks.on_rank_zero(lambda: take(context.run, locks))
            encoders = probed_encoders(context.run.name, context.run.model, settings.seed, settings.transfer.controls)
            encoders = [encoder for encoder in encoders if encoder.model is not None]
            before = None if settings.again else results.read(folder, settings.task)
            if settings.again:  # before any rank looks for a checkpoint
                ranks.on_rank_zero(lambda: shutil.rmtree(folder / FOLDER / settings.task, ignore_errors=True))
            record = results.joined(new_record(context, encoders), before)
            if not settings.again:
                ranks.on_rank_zero(lambda: context.pictures.rows.update(transfer_pictures.read(folder, record).rows))
            for found in all_results(context, encoders, recipes, record):
                if isinstance(found, int):
                    ranks.print0("stopped; the same command goes on")
                    return 128 + found
                record = record.with_results(*found)
                ranks.on_rank_zero(lambda record=record: write(context, record))
            overview = results.file_of(folder, settings.task, "png")
            ranks.on_rank_zero(lambda: transfer_pictures.write_overview(overview, record, context.pictures))
    ranks.print0(summary(record, context, time.monotonic() - began))
    return 0


def opened(settings: TransferSettings, ranks: Ranks) -> Context:
    """The run, the scenes and the device. Raises InvalidSetting."""
    run = open_run(Path(str(settings.run)))
    check_writable(run.folder)
    root = None if settings.data.root is None else Path(settings.data.root)
    train, held_out = open_scenes(settings.data.name, root, settings.task)
    size = settings.data.image_size or SIZES.get(settings.data.name, OTHER_SIZE)
    fabric = make_fabric(settings.device, settings.precision, ranks)
    return Context(settings, run, train, held_out, size, digest_of(held_out), fabric, ranks, Pictures())


def recipes_of(heads: list[str], context: Context) -> dict[str, TransferRecipe | None]:
    """How each head is trained; None of knn, which is not. Raises InvalidSetting where one cannot be."""
    t, images, processes = context.settings.transfer, len(context.train), context.ranks.count
    return {head: None if head == "knn" else recipe_of(head, t.recipe, t.epochs, images, processes) for head in heads}


def take(run: LoadedRun, locks: ExitStack) -> None:
    """Makes the folder of a run's results; no other process writes to it while `locks` are held."""
    run.make_folder()
    locks.enter_context(locked(run.folder))


def digest_of(source: SceneSource) -> str:
    """SHA-256 of how many scenes there are, their classes, and evenly spaced ones of them."""
    digest = hashlib.sha256(f"{len(source)}\0{source.classes}".encode())
    for i in range(0, len(source), max(1, len(source) // DIGESTED)):
        scene = source.read(i)
        digest.update(scene.image.tobytes())
        truth = [] if scene.instances is None else list(vars(scene.instances).values())
        for tensor in truth if scene.class_map is None else [*truth, scene.class_map]:
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def new_record(context: Context, encoders: list[ProbedEncoder]) -> TransferRecord:
    """The record of a transfer, without results."""
    held_out, size = context.held_out, context.size
    scenes = SceneInfo(held_out.name, context.digest, len(context.train), len(held_out), held_out.classes, size)
    known = {encoder.key: EncoderInfo(encoder.label, encoder.checksum) for encoder in encoders}
    return TransferRecord(context.run.name, known, scenes, asdict(context.settings), run_caveats(context.run))


def write(context: Context, record: TransferRecord) -> None:
    """Writes pictures and results; the pictures first, as what has results is not done, and not drawn, again."""
    transfer_pictures.write(context.run.folder, record, context.pictures)
    results.write(context.run.folder, record)


def all_results(
    context: Context,
    encoders: list[ProbedEncoder],
    recipes: dict[str, TransferRecipe | None],
    record: TransferRecord,
) -> Iterator[tuple[list[TransferResult], dict[str, Any]] | int]:
    """Results of every encoder, head and seed that the record lacks, with their recipe; a signal that stopped one."""
    settings = context.settings
    for number in range(settings.transfer.seeds):
        for head, recipe in recipes.items():
            for encoder in encoders:
                seed = settings.seed + number
                variant = variant_of(head, recipe, settings.transfer)
                about = (encoder.key, settings.task, head, variant)
                if any(
                    (r.encoder, r.task, r.head, r.variant, r.seed) == (*about, seed) for r in record.results.values()
                ):
                    continue
                found = (
                    trained(context, encoder, head, variant, recipe, seed)
                    if recipe
                    else nearest(context, encoder, seed)
                )
                if isinstance(found, int):
                    yield found
                    return
                scores = [TransferResult(*about, score, seed, parts) for score, parts in found.items()]
                yield scores, recipe.as_dict() if recipe else {}


def trained(
    context: Context, encoder: ProbedEncoder, head: str, variant: str, recipe: TransferRecipe, seed: int
) -> dict[str, Tensor] | int:
    """Trains a head and scores it: score -> what each held-out image adds; or the signal that stopped it."""
    settings, fabric = context.settings, context.fabric
    assert encoder.model is not None
    torch.manual_seed(seed)
    model = make_model(head, encoder.model, recipe, settings.transfer, context.classes)
    views = Views(context.train, recipe.view(context.size), seed)
    folder = context.run.folder / FOLDER / settings.task / f"{encoder.key}-{head}-{seed}"
    facts = recipe.as_dict() | {
        "variant": variant, "encoder": encoder.checksum, "scenes": context.digest, "size": context.size
    }  # fmt: skip
    facts["scale"] = list(recipe.scale)  # as a checkpoint gives it back
    workers = settings.data.workers
    signal = fit(model, recipe, views, folder, facts, fabric, context.ranks, workers, context.progress)
    if signal is not None:
        return signal
    model.eval()
    task = instance_scores if settings.task == "detection" else segmented
    found = context.ranks.on_rank_zero(lambda: task(context, model, row_of(encoder.key, head, variant)))
    if context.ranks.is_zero:
        shutil.rmtree(folder)
    return found


def nearest(context: Context, encoder: ProbedEncoder, seed: int) -> dict[str, Tensor]:
    """The scores of the nearest patches, on rank zero alone."""

    def found() -> dict[str, Tensor]:
        assert encoder.model is not None
        device = context.fabric.device
        model = PatchNeighbours(DenseEncoder(encoder.model, frozen=True).to(device), context.classes, BANK, seed)
        side = -(-context.size // encoder.model.patch_size) * encoder.model.patch_size
        whole = Views(context.train, View(side, (1.0, 1.0), instances=False), seed)
        steps = range(-(-len(context.train) // BANK_BATCH))
        batches = whole.load(BANK_BATCH, steps, 0, 1, context.settings.data.workers)
        batches = context.progress(batches, "patches of training images", len(steps))
        model.fit((images.to(device), maps) for images, maps in batches)
        return score_class_maps(context, model, row_of(encoder.key, "knn", ""))

    return context.ranks.on_rank_zero(found)


def segmented(context: Context, model: nn.Module, row: str) -> dict[str, Tensor]:
    def predicted(image: Tensor) -> Tensor:
        with context.fabric.autocast():
            return model(image)

    return score_class_maps(context, predicted, row)


@torch.no_grad()
def score_class_maps(context: Context, predicted: Callable[[Tensor], Tensor], row: str) -> dict[str, Tensor]:
    """Score -> what each held-out image adds. `predicted`: logits (1, C, h, w) or classes (1, h, w) of an image; `row`:
    of the pictures."""
    confusions = []
    for number, (image, scene) in enumerate(shown(context)):
        assert scene.class_map is not None
        found = predicted(image.to(context.fabric.device))
        if found.ndim == 3:  # classes: as logits of 0 and 1
            found = nn.functional.one_hot(found, context.classes).movedim(-1, 1)
        height, width = scene.class_map.shape
        classes = class_map(found.float(), (height, width)).cpu()
        confusions.append(confusion(classes, scene.class_map, context.classes))
        context.pictures.add_class_map(number, row, scene, classes)
    return class_map_scores(torch.stack(confusions))


@torch.no_grad()
def instance_scores(context: Context, model: nn.Module, row: str) -> dict[str, Tensor]:
    """Score -> what each group of held-out images adds. `row`: of the pictures."""
    scorer = InstanceScorer()
    for number, (image, scene) in enumerate(shown(context)):
        assert scene.instances is not None
        with context.fabric.autocast():
            found = model(image.to(context.fabric.device))
        width, height = scene.image.size
        found = in_own_size(found, (image.shape[-2], image.shape[-1]), (height, width))
        scorer.update(found, scene.instances)
        context.pictures.add_instances(number, row, scene, found)
    return scorer.scores()


def shown(context: Context) -> Iterable[tuple[Tensor, Scene]]:
    """The held-out scenes with their images as the model sees them."""
    size, held_out = context.size, context.held_out
    scenes = HeldOut(held_out, size, LONGER * size).load(context.settings.data.workers)
    return context.progress(scenes, "held-out images", len(held_out))


def summary(record: TransferRecord, context: Context, seconds: float) -> str:
    """The table and what a reader must know of it."""
    lines = [["", *(encoder.label for encoder in record.encoders.values())]]
    for question in record.questions():
        found = [record.estimate(encoder, question) for encoder in record.encoders]
        cells = ["-" if e is None else f"{100 * e.mean:.1f} ±{50 * (e.high - e.low):.1f}" for e in found]
        lines.append([", ".join(question.split("/")[1:]), *cells])
    data, covered = record.data, "images and seeds" if context.settings.transfer.seeds > 1 else "images"
    return "\n".join(
        [
            aligned(lines) + "\n",
            f"percent; {data.test:,} held-out images of {data.name}, {data.image_size} pixels, {len(data.classes)} "
            f"classes, {data.train:,} to train on; ± reach of the 95% interval over {covered}",
            *record.caveats,
            f"all numbers  {results.file_of(context.run.folder, record.task, 'json')}   ({duration(seconds)})",
            f"next         {command_line('compare', {}, str(context.settings.run), 'ANOTHER_RUN')}",
        ]
    )
