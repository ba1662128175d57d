"""What the runs' representations are worth, beside their reconstructions: columns, control rows and curves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from recon.comparison.assemble import Comparison
from recon.comparison.differences import leaders, pairwise
from recon.evaluation.results import Column, RowInfo, Value, points, rounded
from recon.metrics.intervals import Interval
from recon.probing.accuracy import difference
from recon.probing.probe_results import Record

GROUP = "representation"
NEIGHBOURS = "k=20"  # of several k, the one that has a column
ABOUT = {
    "linear": ("a linear classifier on frozen features, chosen on held-back training images", "arXiv 2304.07193"),
    "knn": ("the 20 nearest training images by cosine, weighted by exp(s / 0.07)", "arXiv 1805.01978"),
    "paper_linear": ("the linear probe of the MAE paper, through the encoder", "arXiv 2111.06377, table 10"),
    "attentive": ("one block of cross-attention with a learnt query on a frozen encoder", "arXiv 2404.08471"),
    "finetune": ("the whole encoder trained on the labels", "arXiv 2111.06377, table 9"),
}
FEATURES = {"mean": "mean of the patch tokens", "class": "class token", "pixels": "the pixels"}


@dataclass(frozen=True)
class Answer:
    """One probe's accuracy.

    Args:
        name: of the result in its probing.
        kind: of the features: "mean", "class", "pixels"; "" where the whole encoder was trained.
        layer: number of the block that was read; 0 where the whole encoder was trained.
        fraction: of the training labels.
    """

    name: str
    probe: str
    variant: str
    kind: str
    layer: int
    fraction: float
    value: float
    low: float
    high: float
    images: int

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Answer":
        """From a result of probe.json."""
        kind, _, layer = entry["feature"].partition("/")
        known = {
            name: entry.get(name) for name in ("name", "probe", "variant", "fraction", "value", "low", "high", "images")
        }
        return cls(**known, kind=kind, layer=int(layer or 0))

    @property
    def blocks(self) -> float:
        """How many blocks were trained: of the variant "blocks=0.5, 20 epochs", 0.5."""
        return float(self.variant.partition("=")[2].partition(",")[0])

    @property
    def line(self) -> str:
        """The curve that it is a point of, in words."""
        parts = [part for part in self.variant.split(", ") if not part.startswith(("blocks=", NEIGHBOURS))]
        return " ".join(filter(None, (self.probe, FEATURES.get(self.kind), ", ".join(parts))))


@dataclass(frozen=True)
class Probed:
    """The answers of one encoder, or of the pixels (`pixels`); result's name -> (S, n) bool, which were right."""

    answers: list[Answer]
    correct: dict[str, Tensor] = field(default_factory=dict)
    pixels: bool = False

    @classmethod
    def of(cls, record: Record, contestant: str) -> "Probed":
        answers = [Answer.of(entry) for entry in record.page["results"] if entry["contestant"] == contestant]
        return cls(answers, record.correct, contestant == "pixels")

    def joined(self, other: "Probed") -> "Probed":
        """With the answers that only the other has."""
        known = {answer.name for answer in self.answers}
        more = [answer for answer in other.answers if answer.name not in known]
        return replace(self, answers=[*self.answers, *more], correct=other.correct | self.correct)


@dataclass(frozen=True)
class Question:
    """What has a column: a probe, its variant and kind of feature, at the largest share of the labels."""

    probe: str
    variant: str
    kind: str
    fraction: float

    @property
    def name(self) -> str:
        words = (self.probe, *self.variant.replace("=", "").replace("k20", "20").split(), self.kind)
        return "_".join(filter(None, words))

    def answer(self, of: Probed) -> Answer | None:
        """The answer at the deepest probed block; pixels answer for every kind of feature."""
        asked = (self.probe, self.variant, "pixels" if of.pixels and self.kind else self.kind, self.fraction)
        same = [
            answer for answer in of.answers if (answer.probe, answer.variant, answer.kind, answer.fraction) == asked
        ]
        return max(same, key=lambda answer: answer.layer, default=None)

    def value(self, run: str, row: str, of: Probed) -> Value:
        found = self.answer(of)
        if found is None:
            return Value(run, row, self.name, reason="not probed this way")
        value, low, high = map(rounded, (found.value, found.low, found.high))
        return Value(run, row, self.name, value=value, low=low, high=high, n=found.images)

    def gap(self, one: Probed, other: Probed) -> Interval | None:
        """How much more accurate the one is than the other, paired over test images."""
        answers = self.answer(one), self.answer(other)
        if None in answers:
            return None
        found = difference(*(of.correct[answer.name] for of, answer in zip((one, other), answers, strict=True)))
        return Interval(found.mean, found.low, found.high, found.images)

    def column(self, data: dict[str, Any]) -> Column:
        about, reference = ABOUT[self.probe]
        of = f", on the {FEATURES[self.kind]}" if self.kind else f", {self.variant}" if self.variant else ""
        description = (
            f"Accuracy of {about}{of}; {data['test']:,} test images of {data['name']}, "
            f"{self.fraction:.0%} of the training labels."
        )
        return Column(GROUP, self.name, description, "share of test images", 0, 1, "higher", reference, paired=False)


def with_probes(comparison: Comparison, records: dict[str, Record]) -> Comparison:
    """The comparison with a group of columns for what was probed, and controls and baselines as rows.

    Probings of other images, sizes or labels than the first one's are not mixed with it; their cells say so.

    Args:
        records: key of a row -> its probing; a key that has no row yet, of a model from scratch, gets one.
    """
    if not records:
        return comparison
    first = next(iter(records.values()))
    same = {key: record for key, record in records.items() if record.task == first.task}
    known = {row.key for row in comparison.rows}
    probed = {key: Probed.of(record, contestant_of(record)) for key, record in same.items()}
    runs = {key: found for key, found in probed.items() if key in known}
    asked = questions(list(probed.values()))  # the controls follow
    added = [RowInfo(key, record.page["run"], "simple") for key, record in records.items() if key not in known]
    for key, label, found in controls(list(same.values())):
        added.append(RowInfo(key, label, "simple"))
        probed[key] = found
    values = [Value("", row.key, c.name, reason="not a reconstruction") for row in added for c in comparison.columns]
    truth = [row for row in comparison.rows if row.kind == "truth"]
    rows = [*(row for row in comparison.rows if row.kind != "truth"), *added, *truth]
    for row in rows:
        run = row.key.partition("/")[2] if row.kind == "run" else ""
        if row.key in probed:
            values += [question.value(run, row.key, probed[row.key]) for question in asked]
            values += curves(run, row.key, probed[row.key].answers)
        else:
            reason = "not probed" if row.kind == "run" else "has no encoder"
            reason = "probed on other images or labels" if row.key in records else reason
            values += [Value(run, row.key, question.name, reason=reason) for question in asked]
    gaps = {q.name: lambda a, b, q=q: q.gap(runs[a], runs[b]) for q in asked}
    return replace(
        comparison,
        columns=comparison.columns + [question.column(first.page["data"]) for question in asked],
        rows=rows,
        results=comparison.results + values,
        best=comparison.best | {name: leaders(list(runs), gap) for name, gap in gaps.items()},
        differences=comparison.differences + pairwise(gaps, runs),
    )


def questions(probed: Sequence[Probed]) -> list[Question]:
    """What has a column: each probe with most labels, of several k one, and of partial fine-tuning none."""
    most: dict[tuple[str, str, str], float] = {}
    for answer in (answer for of in probed for answer in of.answers):
        has_column = answer.probe in ABOUT and (answer.probe != "knn" or answer.variant == NEIGHBOURS)
        if has_column and answer.kind != "pixels":
            asked = answer.probe, answer.variant, answer.kind
            most[asked] = max(answer.fraction, most.get(asked, 0))
    return [Question(*asked, fraction) for asked, fraction in most.items()]


def controls(records: list[Record]) -> Iterator[tuple[str, str, Probed]]:
    """Key, label and answers of each control; one that probings share is one row with all their answers."""
    found: dict[str, tuple[str, str, Probed]] = {}
    for record in records:
        for contestant, control in record.page["contestants"].items():
            key = {"untrained": f"untrained/{control['encoder'][:12]}", "pixels": "pixels"}.get(contestant)
            if key is not None:
                answers = Probed.of(record, contestant)
                run, label, before = found.get(key, (record.page["run"], control["label"], None))
                found[key] = run, label, before.joined(answers) if before else answers
    several = sum(key.startswith("untrained") for key in found) > 1
    for key, (run, label, answers) in found.items():
        yield key, label if answers.pixels else f"untrained encoder{f' of {run}' if several else ''}", answers


def contestant_of(record: Record) -> str:
    """Who was probed: the run, or a model from scratch."""
    return "run" if "run" in record.page["contestants"] else "scratch"


def curves(run: str, row: str, answers: list[Answer]) -> list[Value]:
    """Accuracy by depth, by the number of trained blocks and by the share of the labels."""
    answers = [answer for answer in answers if answer.probe != "knn" or answer.variant == NEIGHBOURS]
    most = max((answer.fraction for answer in answers), default=0)
    deepest = max((answer.layer for answer in answers), default=0)
    partial = [answer for answer in answers if answer.probe == "partial"]
    by_labels = [answer for answer in answers if answer.layer in (0, deepest) and answer not in partial]
    return [
        *curve(run, row, "by_depth", lambda a: a.layer, [a for a in answers if a.layer and a.fraction == most]),
        *curve(run, row, "by_blocks", lambda a: a.blocks, [a for a in partial if a.fraction == most]),
        *curve(run, row, "by_labels", lambda a: a.fraction, by_labels),
    ]


def curve(run: str, row: str, variant: str, place: Callable[[Answer], float], answers: list[Answer]) -> list[Value]:
    """Accuracy at each place, a line for each probe; nothing where there is one place alone."""
    if len({place(answer) for answer in answers}) < 2:
        return []
    return [value for a in answers for value in points(run, row, variant, [place(a)], **{a.line: [a.value]})]
