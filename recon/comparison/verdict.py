"""How each run differs from a reference, in words: from paired and corrected differences, never from values alone."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recon.comparison.differences import RowTensors, ranking
from recon.metrics.intervals import Interval, statistic_interval
from recon.metrics.recovery import summary
from recon.metrics.sharpness import DETAIL
from recon.result_table import Column, Comparison, Difference
from recon.scoreboard import board_columns, heading


def with_verdicts(comparison: Comparison, rows: Mapping[str, RowTensors]) -> Comparison:
    """The comparison, its differences already corrected, with a verdict for every ranked row of a run.

    Args:
        rows: key of a row -> its tensors, as of `differences`.
    """
    ranked = [row.key for row in comparison.rows if row.key in rows and not row.key.startswith("oracle/")]
    if len(ranked) < 2:
        return comparison
    plain = [key for key in ranked if (made := comparison.made.get(key)) and made.expression == "mse"]
    reference = plain[0] if len(plain) == 1 else ranked[0]
    words = {
        key: verdict(key, reference, comparison, invented_of_added(rows[key], rows[reference]))
        for key in ranked
        if key != reference
    }
    return replace(comparison, verdicts=words, against=against(reference, comparison, bool(plain) and len(plain) == 1))


def against(reference: str, comparison: Comparison, is_plain: bool) -> str:
    """What all verdicts have in common: the reference, the correction, and that a run is one run."""
    board = {column.name for column in board_columns(comparison).values()}
    count = sum(d.metric in board for d in (*comparison.differences, *comparison.distances))
    why = "the one run of plain mse" if is_plain else "the first run"
    said = (
        f"Against {comparison.row(reference).label}, {why}, by differences paired over images that remain after Holm's "
        f"correction over the {count} comparisons of these columns (5% for any false one)."
    )
    objectives = Counter(made.expression for made in comparison.made.values())
    if max(objectives.values(), default=0) > 1:
        return f"{said} Each verdict is of one run: other seeds are not covered (python -m experiments.seeds)."
    return f"{said} Each verdict is of one run: other seeds are not covered."


def verdict(key: str, reference: str, comparison: Comparison, invented: Interval | None) -> str:
    """One paragraph on a row: sharper or not, what of the added energy is invented, and every column of the table.

    Columns computed by a network that one of both objectives minimised are named and not judged.
    """
    own = {*comparison.row(key).own, *comparison.row(reference).own}
    parts: list[str] = []
    groups: dict[str, list[str]] = {
        word: [] for word in ("better", "worse", "no different", "too few images", "not judged by its own network")
    }
    for column in board_columns(comparison).values():
        found = ranking(column, comparison).get((key, reference))
        signed = between(column.name, key, reference, comparison)
        values = value_words(column, key, reference, comparison)
        if found is None or found.value is None or signed is None:
            continue
        if column.name in own:
            groups["not judged by its own network"].append(title(column))
        elif found.low is None:
            groups["too few images"].append(title(column))
        elif column.name == DETAIL.name and signed.excludes_zero:
            parts.append(f"{'sharper' if (signed.value or 0) > 0 else 'blurrier'} ({values} of the truth's)")
        elif found.excludes_zero:
            groups["better" if found.value > 0 else "worse"].append(values)
        else:
            groups["no different"].append(title(column))
    energy = between("retention", key, reference, comparison)
    if energy is not None and energy.excludes_zero and (energy.value or 0) > 0 and invented is not None:
        parts.append(invented_words(invented))
    parts += [f"{word}: {', '.join(names)}" for word, names in groups.items() if names]
    return "; ".join(parts or ["nothing to compare"]) + "."


def between(metric: str, a: str, b: str, comparison: Comparison) -> Difference | None:
    """The difference of two rows, a less b."""
    for found in comparison.differences:
        if found.metric == metric and {found.a, found.b} == {a, b}:
            return found if found.a == a else found.turned()
    return None


def title(column: Column) -> str:
    """A column in a sentence."""
    words = heading(column).removesuffix(" dB").replace("inv.", "invented")
    return f"{words} probe" if column.group == "representation" else words


def value_words(column: Column, key: str, reference: str, comparison: Comparison) -> str:
    """A column with both rows' values: "LPIPS 0.227 against 0.273"."""
    values = [comparison.results.number(row, column.name) or 0.0 for row in (key, reference)]
    digits = 2 if max(map(abs, values)) >= 10 else 3
    return f"{title(column)} {' against '.join(f'{value:.{digits}f}' for value in values)}"


def invented_of_added(row: RowTensors, reference: RowTensors) -> Interval | None:
    """Of the energy that a row has beyond the reference, the share that is not coherent with the truth; paired."""
    pair = [tensors.get(f"{key}/moments") for tensors, key in (row, reference)]
    if any(each is None for each in pair):
        return None

    def share(sums: Tensor) -> Tensor:
        mine, theirs = summary(sums[:, 0]), summary(sums[:, 1])
        return (mine["invented"] - theirs["invented"]) / (mine["retention"] - theirs["retention"])

    found = statistic_interval(torch.stack([each.sum(1) for each in pair if each is not None], dim=1), share)
    return found if math.isfinite(found.low) and math.isfinite(found.high) else None


def invented_words(share: Interval) -> str:
    """The share of the added energy that is invented: above 1 where coherent energy was lost as well."""
    if share.low > 1:
        return "all of the added energy is invented, and some that was coherent is lost"
    low, high = (f"{min(max(bound, 0.0), 1.0):.0%}" for bound in (share.low, share.high))
    return f"{min(max(share.value, 0.0), 1.0):.0%} of the added energy is invented ({low} to {high})"
