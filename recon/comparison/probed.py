"""What the runs' representations are worth, beside their reconstructions: columns, control rows and curves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from recon.comparison.differences import pairwise
from recon.metrics.intervals import Interval, student_p
from recon.probing.accuracy import difference
from recon.probing.probe_results import MAX_IMAGES, DataInfo, ProbeRecord, ProbeResult
from recon.result_table import Column, Comparison, RowInfo, Value, points, rounded

GROUP = "representation"
NEIGHBOURS = "k=20"  # of several k, the one that has a column
ABOUT = {
    "linear": ("a linear classifier on frozen features, chosen on held-back training images", "arXiv 2304.07193"),
    "knn": ("the 20 nearest training images by cosine, weighted by exp(s / 0.07)", "arXiv 1805.01978"),
    "paper_linear": ("the linear probe of the MAE paper, through the encoder", "arXiv 2111.06377, table 10"),
    "attentive": ("one block of cross-attention with a learnt query on a frozen encoder", "arXiv 2404.08471"),
    "efficient": ("32 queries that attend to a frozen encoder's patch tokens", "arXiv 2506.10178"),
    "finetune": ("the whole encoder trained on the labels", "arXiv 2111.06377, table 9"),
}
MEASURED = {  # without labels: what, unit, least value, reference
    "rankme": (
        "RankMe, how many dimensions the features fill; higher was better among runs of one method",
        "dimensions",
        1,
        "arXiv 2210.02885",
    ),
    "alpha_req": (
        "The exponent with which the covariance's eigenvalues fall (alpha-ReQ); best near 1, its authors found",
        "exponent",
        None,
        "Agrawal et al. 2022, NeurIPS",
    ),
}
FEATURES = {"mean": "mean of the patch tokens", "class": "class token", "pixels": "the pixels"}


@dataclass(frozen=True)
class Probed:
    """The results of one encoder, or of the pixels (`pixels`), by name."""

    results: dict[str, ProbeResult]
    pixels: bool = False

    @classmethod
    def of(cls, record: ProbeRecord, encoder: str) -> "Probed":
        results = {name: result for name, result in record.results.items() if result.encoder == encoder}
        return cls(results, encoder == "pixels")

    def joined(self, other: "Probed") -> "Probed":
        """With the results that only the other has."""
        return replace(self, results=self.results | {k: v for k, v in other.results.items() if k not in self.results})


@dataclass(frozen=True)
class Question:
    """What has a column: a probe, its variant and kind of feature, at the largest share of the labels (0 for a measure
    without labels)."""

    probe: str
    variant: str
    kind: str
    fraction: float

    @property
    def name(self) -> str:
        words = (self.probe, *self.variant.replace("=", "").replace("k20", "20").split(), self.kind)
        return "_".join(filter(None, words))

    def result(self, of: Probed) -> ProbeResult | None:
        """The result at the deepest probed block; pixels have one result for every kind of feature."""
        asked = (self.probe, self.variant, "pixels" if of.pixels and self.kind else self.kind, self.fraction)
        same = [r for r in of.results.values() if (r.probe, r.variant, r.kind, r.fraction) == asked]
        return max(same, key=lambda result: result.layer, default=None)

    def value(self, run: str, row: str, of: Probed) -> Value:
        result = self.result(of)
        if result is None:
            return Value(run, row, self.name, reason="not probed this way")
        found = result.estimate
        value, low, high = map(rounded, (found.mean, found.low, found.high))
        return Value(run, row, self.name, value=value, low=low, high=high, n=found.images)

    def gap(self, one: Probed, other: Probed) -> Interval | None:
        """How much more accurate the one is than the other, or how much its measure exceeds the other's, paired over
        images."""
        a, b = self.result(one), self.result(other)
        if a is None or b is None:
            return None
        found = difference(a.per_image, b.per_image)
        p = float(student_p(found.mean, found.standard_error, found.freedom))
        return Interval(found.mean, found.low, found.high, found.images, p)

    def column(self, data: DataInfo) -> Column:
        of = f", on the {FEATURES[self.kind]}" if self.kind else f", {self.variant}" if self.variant else ""
        if self.probe in MEASURED:
            about, unit, least, reference = MEASURED[self.probe]
            images = f"{min(data.train, MAX_IMAGES):,} training images of {data.name}"
            return Column(
                GROUP, self.name, f"{about}{of}; {images}, no labels.", unit, least, None, "none", reference, False
            )
        about, reference = ABOUT[self.probe]
        description = (
            f"Accuracy of {about}{of}; {data.test:,} test images of {data.name}, "
            f"{self.fraction:.0%} of the training labels."
        )
        return Column(GROUP, self.name, description, "share of test images", 0, 1, "higher", reference, paired=False)


def with_probes(comparison: Comparison, records: dict[str, ProbeRecord]) -> Comparison:
    """The comparison with a group of columns for what was probed, and controls and baselines as rows.

    Probings of other images, sizes or labels than the first one's are not mixed with it; their cells say so.

    Args:
        records: key of a row -> its probing; a key that has no row yet, of a model from scratch, gets one.
    """
    if not records:
        return comparison
    first = next(iter(records.values()))
    same = {key: record for key, record in records.items() if record.images == first.images}
    known = {row.key for row in comparison.rows}
    probed = {key: Probed.of(record, encoder_of(record)) for key, record in same.items()}
    runs = {key: found for key, found in probed.items() if key in known}
    asked = questions(list(probed.values()))  # the controls follow
    added = [RowInfo(key, record.run, "simple") for key, record in records.items() if key not in known]
    for key, label, found in controls(list(same.values())):
        added.append(RowInfo(key, label, "simple"))
        probed[key] = found
    comparison, values = with_rows(comparison, added), []
    for row in comparison.rows:
        run = row.key.partition("/")[2] if row.kind == "run" else ""
        if row.key in probed:
            values += [question.value(run, row.key, probed[row.key]) for question in asked]
            values += curves(run, row.key, list(probed[row.key].results.values()))
        else:
            reason = "not probed" if row.kind == "run" else "has no encoder"
            reason = "probed on other images or labels" if row.key in records else reason
            values += [Value(run, row.key, question.name, reason=reason) for question in asked]
    gaps = {q.name: lambda a, b, q=q: q.gap(runs[a], runs[b]) for q in asked}
    return replace(
        comparison,
        columns=comparison.columns + [question.column(first.data) for question in asked],
        results=comparison.results + values,
        differences=comparison.differences + pairwise(gaps, runs),
    )


def with_rows(comparison: Comparison, added: Sequence[RowInfo]) -> Comparison:
    """The comparison with further rows before the truth, which are no reconstructions."""
    values = [Value("", row.key, c.name, reason="not a reconstruction") for row in added for c in comparison.columns]
    rows = [row for row in comparison.rows if row.kind != "truth"]
    truth = [row for row in comparison.rows if row.kind == "truth"]
    return replace(comparison, rows=[*rows, *added, *truth], results=comparison.results + values)


def questions(probed: Sequence[Probed]) -> list[Question]:
    """What has a column: each probe with most labels, of several k one, and of partial fine-tuning none."""
    most: dict[tuple[str, str, str], float] = {}
    for result in (result for of in probed for result in of.results.values()):
        has_column = result.probe in (*ABOUT, *MEASURED) and (result.probe != "knn" or result.variant == NEIGHBOURS)
        if has_column and result.kind != "pixels":
            asked = result.probe, result.variant, result.kind
            most[asked] = max(result.fraction, most.get(asked, 0))
    return [Question(*asked, fraction) for asked, fraction in most.items()]


def controls(records: list[ProbeRecord]) -> Iterator[tuple[str, str, Probed]]:
    """Key, label and results of each control; one that probings share is one row with all their results."""
    found: dict[str, tuple[str, str, Probed]] = {}
    for record in records:
        for encoder, control in record.encoders.items():
            key = {"untrained": f"untrained/{control.checksum[:12]}", "pixels": "pixels"}.get(encoder)
            if key is not None:
                probed = Probed.of(record, encoder)
                run, label, before = found.get(key, (record.run, control.label, None))
                found[key] = run, label, before.joined(probed) if before else probed
    several = sum(key.startswith("untrained") for key in found) > 1
    for key, (run, label, probed) in found.items():
        yield key, label if probed.pixels else f"untrained encoder{f' of {run}' if several else ''}", probed


def encoder_of(record: ProbeRecord) -> str:
    """What was probed: the run, or a model from scratch."""
    return "run" if "run" in record.encoders else "scratch"


def curves(run: str, row: str, results: list[ProbeResult]) -> list[Value]:
    """Accuracy by depth, by the number of trained blocks and by the share of the labels."""
    results = [r for r in results if r.fraction and (r.probe != "knn" or r.variant == NEIGHBOURS)]
    most = max((result.fraction for result in results), default=0)
    deepest = max((result.layer for result in results), default=0)
    partial = [result for result in results if result.probe == "partial"]
    by_labels = [result for result in results if result.layer in (0, deepest) and result.probe != "partial"]
    return [
        *curve(run, row, "by_depth", lambda r: r.layer, [r for r in results if r.layer and r.fraction == most]),
        *curve(run, row, "by_blocks", blocks_of, [r for r in partial if r.fraction == most]),
        *curve(run, row, "by_labels", lambda r: r.fraction, by_labels),
    ]


def curve(
    run: str, row: str, variant: str, place: Callable[[ProbeResult], float], results: list[ProbeResult]
) -> list[Value]:
    """Accuracy at each place, a line for each probe; nothing where there is one place alone."""
    if len({place(result) for result in results}) < 2:
        return []
    return [p for r in results for p in points(run, row, variant, [place(r)], **{line_of(r): [r.estimate.mean]})]


def blocks_of(result: ProbeResult) -> float:
    """How many blocks were trained: of the variant "blocks=0.5, 20 epochs", 0.5."""
    return float(result.variant.partition("=")[2].partition(",")[0])


def line_of(result: ProbeResult) -> str:
    """The curve that the result is a point of, in words."""
    parts = [part for part in result.variant.split(", ") if not part.startswith(("blocks=", NEIGHBOURS))]
    return " ".join(filter(None, (result.probe, FEATURES.get(result.kind), ", ".join(parts))))
