"""What the runs' encoders are worth for detection and segmentation: columns, and untrained encoders as rows."""

import re
from dataclasses import dataclass, replace

from recon.comparison.differences import pairwise
from recon.comparison.probed import with_rows
from recon.dense.transfer_results import SceneInfo, TransferRecord
from recon.metrics.intervals import Interval, student_p
from recon.probing.accuracy import difference
from recon.result_table import Column, Comparison, RowInfo, Value, rounded

GROUP = "transfer"
SCORES = {  # title, what, reference
    "box_ap": ("box AP", "Average precision of boxes over IoU 0.5 to 0.95", "arXiv 1405.0312"),
    "mask_ap": ("mask AP", "Average precision of masks over IoU 0.5 to 0.95", "arXiv 1405.0312"),
    "miou": ("mIoU", "Intersection over union of class maps, mean over classes", "arXiv 1608.05442"),
}
HEADS = {
    "mask_rcnn": "Mask R-CNN",
    "upernet": "UPerNet",
    "linear": "a linear layer on frozen tokens",
    "knn": "the 20 nearest training patches",
}


@dataclass(frozen=True)
class Question:
    """What has a column: a score of a head; see `TransferResult`."""

    task: str
    head: str
    variant: str
    score: str

    @classmethod
    def all_of(cls, records: list[TransferRecord]) -> list["Question"]:
        found = [
            cls(r.task, r.head, r.variant, r.score)
            for record in records
            for r in record.results.values()
            if r.score in SCORES
        ]
        return list(dict.fromkeys(found))

    @property
    def asked(self) -> str:
        return "/".join(filter(None, (self.task, self.head, self.variant, self.score)))

    @property
    def name(self) -> str:
        return "_".join([self.score, self.head, *re.findall(r"\w+", self.variant)])

    def value(self, run: str, row: str, record: TransferRecord, encoder: str) -> Value:
        found = record.estimate(encoder, self.asked)
        if found is None:
            return Value(run, row, self.name, reason="not transferred this way")
        value, low, high = map(rounded, (found.mean, found.low, found.high))
        return Value(run, row, self.name, value=value, low=low, high=high, n=record.data.test)

    def gap(self, one: TransferRecord, other: TransferRecord) -> Interval | None:
        """How much higher the one's score is than the other's, paired over images."""
        a, b = (record.parts("run", self.asked) for record in (one, other))
        if a is None or b is None:
            return None
        found = difference(a, b)
        p = float(student_p(found.mean, found.standard_error, found.freedom))
        return Interval(found.mean, found.low, found.high, one.data.test, p)

    def column(self, data: SceneInfo) -> Column:
        title, about, reference = SCORES[self.score]
        how = f", {self.variant}" if self.variant else ""
        description = (
            f"{about}, by {HEADS[self.head]}{how}; {data.test:,} held-out images of {data.name}, "
            f"{data.image_size} pixels, {data.train:,} to train on."
        )
        heading = title if self.head == "mask_rcnn" else f"{title} {self.head}"
        heading += " frozen" if self.head in ("mask_rcnn", "upernet") and "frozen" in self.variant else ""
        return Column(GROUP, self.name, description, "share", 0, 1, "higher", reference, paired=False, title=heading)


def with_transfers(comparison: Comparison, records: dict[str, TransferRecord]) -> Comparison:
    """The comparison with a group of columns for what was transferred, and untrained encoders as rows.

    Transfers to other scenes, or at another size, than the first one's are not mixed with it; their cells say so.

    Args:
        records: key of a run's row -> its transfers.
    """
    if not records:
        return comparison
    first = next(iter(records.values()))
    same = of_same_scenes(records)
    asked = Question.all_of(list(same.values()))
    cells = {key: (same[run], encoder) for key, of in encoders_of(same).items() for run, encoder in of}
    known = {row.key for row in comparison.rows}
    untrained = {key: record.run for key, (record, encoder) in cells.items() if encoder == "untrained"}
    several = len(untrained) > 1
    added = [
        RowInfo(key, f"untrained encoder{f' of {run}' if several else ''}", "simple")
        for key, run in untrained.items()
        if key not in known
    ]
    comparison, values = with_rows(comparison, added), []
    for row in comparison.rows:
        run = row.key.partition("/")[2] if row.kind == "run" else ""
        if row.key in cells:
            values += [question.value(run, row.key, *cells[row.key]) for question in asked]
        else:
            reason = "not transferred" if row.kind == "run" else "has no encoder"
            reason = "transferred to other scenes" if row.key in records else reason
            values += [Value(run, row.key, question.name, reason=reason) for question in asked]
    gaps = {q.name: lambda a, b, q=q: q.gap(same[a], same[b]) for q in asked}
    return replace(
        comparison,
        columns=comparison.columns + [question.column(first.data) for question in asked],
        results=comparison.results + values,
        differences=comparison.differences + pairwise(gaps, same),
    )


def of_same_scenes(records: dict[str, TransferRecord]) -> dict[str, TransferRecord]:
    """Those that were transferred to the scenes of the first one, at its size."""
    asked = [(record.data.digest, record.data.image_size) for record in records.values()]
    return {key: record for (key, record), of in zip(records.items(), asked, strict=True) if of == asked[0]}


def encoders_of(records: dict[str, TransferRecord]) -> dict[str, list[tuple[str, str]]]:
    """Key of every row -> the runs whose records have its results, and which encoder of the record it is.

    An untrained encoder has the key that it has when it is probed; runs may share it.
    """
    found = {key: [(key, "run")] for key in records}
    for key, record in records.items():
        if control := record.encoders.get("untrained"):
            found.setdefault(f"untrained/{control.checksum[:12]}", []).append((key, "untrained"))
    return found
