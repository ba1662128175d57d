"""The record of a study: README.md and tidy tables; its figures are drawn by experiments.study.figures.

It is written of a study that is not finished too, from the runs that are measured, and says so.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.study.definition import Plain, Study
from experiments.study.figures import Differences, write_figures
from experiments.study.measured import Measurements, gather
from experiments.study.run_values import RunValues
from losses import InvalidSetting, nearest
from recon.console import command_line
from recon.probing.label_free import MEASURES
from recon.report.tables import write_csv
from recon.run_folder import write_text

OfRuns = Mapping[tuple[str, int], RunValues]  # by variant and seed


def write(folder: Path, name: str, study: Study, of_runs: OfRuns, digest: str, given: Sequence[str] = ()) -> None:
    """Writes the record into `folder`, README.md last; it ends with `finished(digest)` where no run is missing.

    Args:
        of_runs: what the runs gave that are measured; the reference is among them.
        digest: of the study's file.
        given: names of the places that the command was given, such as data.root.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = gather(of_runs)
    differences = found.differences(study.measured, study.reference)
    write_csv(results(name, study, found), folder / "results.csv")
    if differences:
        write_csv(difference_records(differences, study.reference), folder / "differences.csv")
    else:
        (folder / "differences.csv").unlink(missing_ok=True)
    figures = write_figures(folder, study, found, differences)
    command, missing = made(name, study, of_runs, given), len(study.runs(name)) - len(of_runs)
    text = page(name, study, found, differences, figures, command, missing)
    write_text(folder / "README.md", text if missing else f"{text}\n{finished(digest)}\n")


def finished(digest: str) -> str:
    """What the page of a whole record ends with; `digest`: of the study's file."""
    return f"<!-- study {digest} -->"


def results(name: str, study: Study, found: Measurements) -> list[Plain]:
    """A line for each row, metric and seed, and one with the interval over all seeds."""
    lines = []
    for metric in study.measured:
        for row, e in found.effects(metric).items():
            common = {"study": name, "row": row, "metric": metric}
            per_seed = found.values[row][metric].nanmean(1).tolist()
            lines += [common | {"seed": s, "value": v} for s, v in zip(found.seeds[row], per_seed, strict=True)]
            lines.append(common | {"seed": "all", "value": e.value, "low": e.low, "high": e.high, "images": e.images})
    return lines


def difference_records(differences: Differences, reference: str) -> list[Plain]:
    return [
        {"row": row, "reference": reference, "metric": metric, "difference": e.value, "low": e.low, "high": e.high}
        | {"p_holm": e.p, "differs": e.differs, "seeds": e.seeds, "images": e.images}
        for (row, metric), e in differences.items()
    ]


def page(
    name: str,
    study: Study,
    found: Measurements,
    differences: Differences,
    figures: list[str],
    how: Sequence[str],
    missing: int,
) -> str:
    """README.md of the record; `missing`: runs that are not measured yet."""
    if not any(found.effects(metric) for metric in study.measured):
        raise InvalidSetting(f"nothing that {name} measures was found: {', '.join(study.measured)}")
    numbers = {len(of_row) for of_row in found.seeds.values()}
    seeds, single = max(numbers), "over images alone, so that another seed may lie outside"
    over = single if seeds == 1 else f"over both; of one seed {single}" if 1 in numbers else "over both"
    lines = [
        f"# {name}",
        study.question.strip(),
        *([f"**Not finished**: {missing} of {len(study.runs(name))} runs are missing."] if missing else []),
        "## Answer",
        study.answer.strip() or "Not written yet; the table says what was measured.",
        "## Table",
        "\n".join(table(study, found, differences)),
        f"Means over {seeds} seed{'s' * (seeds > 1)} and {measured_on(study, found)}, ± half of the 95% interval "
        f"{over}. **Bold**: differs from {study.reference} (Holm over all {len(differences)} "
        "comparisons of this table, 5%)." + "".join(f" {note}" for note in notes(study, found)),
        *(f"![{figure}]({figure})" for figure in figures),
        "## What it cannot say",
        study.limits.strip() or "Nothing beyond these data, sizes and lengths.",
        "## How it was made",
        "\n".join(how),
    ]
    return "\n\n".join(lines) + "\n"


def measured_on(study: Study, found: Measurements) -> str:
    """How many images there were, in words, by what was measured on them."""
    unlabelled = {question for question in found.probed if question.split("/")[0] in MEASURES}
    kinds = {"held-out images": set(study.measured) - found.probed}
    kinds |= {"test images of probes": found.probed - unlabelled, "training images of RankMe": unlabelled}
    counts = {
        kind: max(e.images for metric in metrics for e in found.effects(metric).values())
        for kind, metrics in kinds.items()
        if any(found.effects(metric) for metric in metrics)
    }
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())


def notes(study: Study, found: Measurements) -> list[str]:
    """What a reader of the table must know of single cells and rows."""
    lines = [f"{metric}: measured in no run." for metric in study.measured if not found.effects(metric)]
    if own := sorted({study.measured[metric] for _, metric in found.own}):
        lines.append(f"-: {', '.join(own)} by a network that the objective itself minimised.")
    if other := [row for row in found.values if found.other_task(row, study.reference)]:
        lines.append(
            f"†: reconstructions of {', '.join(other)} are of other masks than those of {study.reference}, and so are "
            "not compared with them; their probes are."
        )
    if len({tuple(seeds) for seeds in found.seeds.values()}) > 1:
        seeds = [f"{row} {', '.join(map(str, of_row))}" for row, of_row in found.seeds.items()]
        lines.append(f"Seeds: {'; '.join(seeds)}. Rows are compared over the seeds that both have.")
    if study.evaluate is not None and (features := [row for row in found.values if not found.images.get(row)]):
        lines.append(f"{', '.join(features)}: no pixels are predicted, so nothing is drawn.")
    return lines


def excerpt(study: Study, of_runs: OfRuns, columns: Sequence[str]) -> list[str]:
    """Some columns of the record's table, bold as there: by Holm over all comparisons of the record.

    Raises:
        InvalidSetting: a column that the study does not measure, or no run of the reference is measured.
    """
    if unknown := next((column for column in columns if column not in study.measured), None):
        close = nearest(unknown, study.measured)
        raise InvalidSetting(f"columns: '{unknown}' is not measured{close} (measured: {', '.join(study.measured)})")
    if not any(variant == study.reference for variant, _ in of_runs):
        raise InvalidSetting(f"no run of the reference, {study.reference}, is recorded yet")
    found = gather(of_runs)
    differences = found.differences(study.measured, study.reference)
    return table(replace(study, measured={column: study.measured[column] for column in columns}), found, differences)


def table(study: Study, found: Measurements, differences: Differences) -> list[str]:
    """Lines of Markdown: a row per row, a column per measured thing."""
    effects = {metric: found.effects(metric) for metric in study.measured}
    headings = {metric: title for metric, title in study.measured.items() if effects[metric]}
    lines = [f"| | {' | '.join(headings.values())} |", f"|---|{'---|' * len(headings)}"]
    for row in found.values:
        cells = []
        for metric in headings:
            e, difference = effects[metric].get(row), differences.get((row, metric))
            text = "-" if e is None or math.isnan(e.value) else f"{_number(e.value)} ±{_number((e.high - e.low) / 2)}"
            cells.append(f"**{text}**" if difference and difference.differs else text)
        mark = " †" if found.other_task(row, study.reference) else ""
        lines.append(f"| {row}{mark} | {' | '.join(cells)} |")
    return lines


def _number(value: float) -> str:
    text = f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
    return text.lstrip("-") if float(text) == 0 else text


def made(name: str, study: Study, of_runs: OfRuns, given: Sequence[str]) -> list[str]:
    """Commands, versions, machines and processor time of the runs."""
    hours = sum(values.core_hours for values in of_runs.values())
    others = sum(v.core_hours for v in of_runs.values() if not v.made["settings"]["name"].startswith(f"{name}-"))
    machines = sorted({values.machine for values in of_runs.values()})
    first = next(iter(study.runs(name).values()))
    differing = ["name", "seed", *sorted({key for variant in study.variants.values() for key in variant} - {"name"})]
    return [
        " ".join(["    python -m experiments.study", shlex.quote(name), *(f"{key}=..." for key in given)]),
        "",
        f"The first of its runs (the others differ in {', '.join(differing)}):",
        "",
        f"    {command_line('pretrain', first)}",
        "",
        f"Training took {hours:.1f} core-hours, by the logs of the runs"
        f"{f', {others:.1f} of them for runs of other studies' if others else ''}. {'; '.join(machines)}.",
    ]
