"""The model card of a run: README.md of a folder for transformers and its hub, with all that the run's files know."""

from dataclasses import replace
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from losses import InvalidSetting
from recon.config import image_size, masking_name, peak_learning_rate
from recon.console import one_line, with_interval, written
from recon.evaluation import results as evaluation_results
from recon.evaluation.results import Evaluation
from recon.loaded_run import LoadedRun
from recon.model.masking import in_words
from recon.probing import probe_results
from recon.probing.features import ProbedEncoder
from recon.probing.probe_results import ProbeRecord
from recon.scoreboard import OWN

USE = """```python
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTMAEForPreTraining

processor = AutoImageProcessor.from_pretrained("{folder}")
model = ViTMAEForPreTraining.from_pretrained("{folder}")
pixels = processor(Image.open("picture.jpg").convert("RGB"), return_tensors="pt")["pixel_values"]
with torch.no_grad():
    out = model(pixels)  # out.logits: {predicted} (1, {patches}, {values}); out.mask: 1 where hidden
```"""
LIMITS = [
    "It predicts no classes. Its encoder gives features, for a linear probe, nearest neighbours or fine-tuning.",
    "What it draws in hidden patches is a guess from the visible ones. Fine texture in it may be invented: it is no "
    "evidence of what was there.",
    "It was trained on the data named above alone. What it does on other images, and what biases of the data it has "
    "taken over, was not measured.",
]


def model_card(run: LoadedRun, folder: Path, left_out: list[str]) -> str:
    """The card's text, in Markdown under a YAML head.

    Args:
        folder: where the model is written to, for the lines that load it.
        left_out: parts of the model that are not in that folder, a phrase each.
    """
    evaluation, probing = evaluated(run), probed(run)
    parts = [
        f"---\n{head(run, evaluation)}\n---",
        f"# {plain(run.name)}",
        f"A masked autoencoder ({code(run.settings.model.name)}), pretrained with recon under the objective "
        f"{code(run.resolved['objective'])}" + (f"; {run.unfinished}." if run.unfinished else "."),
        "## Use",
        use(run, folder),
        "## Training",
        *training(run),
        "## Results",
        *(measured(evaluation) if evaluation else ["It has not been evaluated."]),
        *(accuracies(probing) if probing else []),
        "## What it cannot do",
        "\n".join(f"- {line}" for line in [*LIMITS, *limits(run, left_out)]),
        "## Licence",
        "The licence of the training data is not known to the program that wrote this card, so neither are the terms "
        "under which the weights may be passed on. Say both before you publish them.",
    ]
    return "\n\n".join(parts) + "\n"


def evaluated(run: LoadedRun) -> Evaluation | None:
    """The run's evaluation, where it is of this very model."""
    found = evaluation_results.read(run.folder)
    return found if found and found.model["sha256"] == run.sha256 else None


def probed(run: LoadedRun) -> ProbeRecord | None:
    """The run's probing, where it is of this very encoder."""
    try:
        found = probe_results.read(run.folder)
    except InvalidSetting:
        return None
    return found if found and found.checksum == ProbedEncoder("run", run.name, run.model).checksum else None


def head(run: LoadedRun, evaluation: Evaluation | None) -> str:
    """What the hub understands, as YAML."""
    data = one_line(run.settings.data.name)
    results = []
    if evaluation:
        row = next(row.key for row in evaluation.rows if row.kind == "run")
        for column in evaluation.columns:
            if (value := evaluation.results.number(row, column.name)) is not None:
                results.append(
                    EvalResult(
                        task_type="image-feature-extraction",
                        dataset_type=data,
                        dataset_name=data,
                        metric_type=column.name,
                        metric_value=value,
                    )
                )
    card = ModelCardData(
        model_name=one_line(run.name),
        eval_results=results or None,
        library_name="transformers",
        license="unknown",
        pipeline_tag="image-feature-extraction",
        tags=["vit_mae", "masked-autoencoder", "self-supervised", "recon"],
        datasets=[data.removeprefix("hfds/")] if data.startswith("hfds/") else None,
    )
    return card.to_yaml()


def use(run: LoadedRun, folder: Path) -> str:
    model = run.model
    predicted = "normalised patches" if run.resolved["head"] == "normalised pixels" else "standardised pixels"
    name = one_line(folder.name).replace("\\", "\\\\").replace('"', '\\"')
    return USE.format(folder=name, predicted=predicted, patches=model.patches, values=3 * model.patch_size**2)


def training(run: LoadedRun) -> list[str]:
    """How it was made, and by which command; the data's address, which may be private, is left out."""
    s, model, images = run.settings, run.model, run.resolved.get("training_images")
    masks, (height, width) = masking_name(s.masking), image_size(s)
    facts = {
        "objective": code(run.resolved["objective"]),
        "data": f"{code(s.data.name)}, {images:,} images" if isinstance(images, int) else code(s.data.name),
        "model": f"{code(s.model.name)}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
        f"{height}x{width} pixels in patches of {model.patch_size}",
        "masks": in_words(masks, s.masking.ratio).replace(masks, code(masks)),
        "length": f"{run.step if run.step is not None else run.resolved['steps']:,} steps of {s.batch.size} images",
        "learning rate": f"{peak_learning_rate(s):.3g}, weight decay {s.optim.weight_decay:g}",
        "parts trained": s.train.parts,
        "began with": code(s.init),
        "seed": str(s.seed),
        "sha256 of the run's weights": code(run.sha256),
    }
    table = "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    shown = replace(s, data=replace(s.data, root="PATH" if s.data.root else None))
    command = one_line(written("pretrain", shown, leave_out=("resume", "compile", "log")))
    return [table, f"The command that trained it:\n\n    {command}"]


def measured(e: Evaluation) -> list[str]:
    """The run's rows of the evaluation, with half the width of their 95% intervals, beside the truth's."""
    rows = [row for row in e.rows if row.kind in ("run", "truth")]
    lines = [
        "| metric | " + " | ".join(plain(row.label) for row in rows) + " | better |",
        "|---" * (len(rows) + 2) + "|",
    ]
    for column in e.columns:
        found = [(e.results.get(row.key, column.name), "*" * (column.name in row.own)) for row in rows]
        if any(value.value is not None for value, _ in found):
            cells = ["" if v.value is None else with_interval(v.value, v.low, v.high) + mark for v, mark in found]
            lines.append(f"| {column.name} | {' | '.join(cells)} | {column.better} |")
    p = e.protocol
    about = f"{p.images} held-out images of {code(p.data)}, {p.hiding}; all numbers are of "
    about += "hidden patches, ± half of the 95% interval over images."
    notes = [f"{row.label}: {row.note}" for row in rows if row.note] + [OWN] * any(row.own for row in rows)
    return [about, "\n".join(lines), *map(plain, [*notes, *([e.caveat] if e.caveat else [])])]


def accuracies(record: ProbeRecord) -> list[str]:
    """Every probe of the run's encoder, and measure of its features, with its 95% interval over images and seeds."""
    lines = ["| probe | labels | accuracy, or measure |", "|---|---|---|"]
    for result in record.results.values():
        if result.encoder == "run":
            found, labels = result.estimate, f"{result.fraction:.0%}" if result.fraction else "none"
            value = with_interval(found.mean, found.low, found.high)
            lines.append(f"| {plain(result.title)} | {labels} | {value} |")
    data = record.data
    about = f"Probes on {code(data.name)}: {data.test:,} test images of {len(data.classes)} classes."
    return [about, "\n".join(lines), *map(plain, record.caveats)]


def limits(run: LoadedRun, left_out: list[str]) -> list[str]:
    """What of the run transformers does not have."""
    lines = [f"Left out, for transformers has no place for it: {what}." for what in left_out]
    if run.resolved["head"] == "normalised pixels":
        lines.append("It predicts patches normalised by their own mean and deviation, which a picture needs besides.")
    if (strategy := run.settings.masking.strategy) != "random":
        lines.append(
            f"It was trained under {code(strategy)} masks; transformers hides patches at random, unless given noise."
        )
    return lines


def plain(text: str) -> str:
    """Text of others in Markdown: one line, in which nothing is markup."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|~" else c for c in one_line(text))


def code(text: str) -> str:
    return "`" + one_line(str(text)).replace("`", "'").replace("|", "\\|") + "`"
