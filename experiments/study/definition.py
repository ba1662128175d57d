"""What a study asks: one YAML file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from losses import InvalidSetting, nearest
from recon.result_table import from_plain

STUDIES = Path(__file__).parents[1] / "studies"
RECORDS = Path(__file__).parents[1] / "records"

Plain = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it.

    Args:
        question: what is asked. answer: what was found, written by whoever looked at the results; "" until then.
        limits: what it cannot say.
        settings: of recon.pretrain, of every run. variants: name -> what it differs in; "{seed}" in a text stands for
            the run's seed. One with a `name` takes the run of that name, such as another study's, and trains it where
            that is not done.
        seeds: of every variant.
        reference: the variant with which the others are compared.
        measured: a metric's column, "detail", or a probe's question ("linear/mean/4/1") -> its heading.
        evaluate: settings of recon.evaluate; None: probes alone are measured. probe: settings of recon.probe; None:
            nothing is probed.
        figure: the two measured things that are drawn against each other.
        curves: name of a line -> variant -> its place on the axis that `along` names; a panel for each measured thing.
        runs_of: the study whose runs of the same variants are measured, where they are trained; "" for its own.
    """

    question: str
    settings: Plain
    variants: dict[str, Plain]
    seeds: list[int]
    reference: str
    measured: dict[str, str]
    evaluate: Plain | None = field(default_factory=dict)
    probe: Plain | None = None
    figure: list[str] = field(default_factory=list)
    curves: dict[str, dict[str, float]] = field(default_factory=dict)
    along: str = ""
    runs_of: str = ""
    answer: str = ""
    limits: str = ""

    def runs(self, name: str) -> dict[tuple[str, int], Plain]:
        """Variant and seed -> the settings of its run; the run's name is among them."""
        return {
            (variant, seed): {"name": f"{self.runs_of or name}-{variant}-{seed}", "seed": seed}
            | {key: _with_seed(value, seed) for key, value in (self.settings | own).items()}
            for seed in self.seeds  # all variants of the first seed come first
            for variant, own in self.variants.items()
        }


def _with_seed(value: Any, seed: int) -> Any:
    return value.replace("{seed}", str(seed)) if isinstance(value, str) else value


def names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def path_of(name: str) -> Path:
    """The file of a study by its name, or by its own path.

    Raises:
        InvalidSetting: there is none.
    """
    if name.endswith(".yaml") and Path(name).is_file():
        return Path(name)
    if name not in names():
        raise InvalidSetting(f"there is no study '{name}'{nearest(name, names())} (studies: {', '.join(names())})")
    return STUDIES / f"{name}.yaml"


def read(path: Path) -> Study:
    """The study in a file.

    Raises:
        InvalidSetting: the file is none, or names what it does not have.
    """
    try:
        plain = yaml.safe_load(path.read_text())
        study = from_plain(Study, plain)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise InvalidSetting(f"{path} is no study: {' '.join(str(error).split())[:200]}") from error
    for what, word, known in [
        ("reference", study.reference, study.variants),
        *(("figure", word, study.measured) for word in study.figure),
        *(("curves", word, study.variants) for places in study.curves.values() for word in places),
    ]:
        if word not in known:
            raise InvalidSetting(f"{path}: {what} '{word}' is not among {', '.join(known)}")
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise InvalidSetting(f"{path}: give one or more seeds, each once")
    probes = "" if study.probe is None else study.probe.get("probe", "")
    if study.evaluate is None and (odd := [m for m in study.measured if m.split("/")[0] not in probes.split("+")]):
        raise InvalidSetting(f"{path}: no probe measures '{odd[0]}'; give settings of recon.evaluate in place of null")
    if len({run["name"] for run in study.runs(path.stem).values()}) < len(study.seeds) * len(study.variants):
        raise InvalidSetting(f"{path}: two variants, or two seeds of one, have the same name; give it a {{seed}}")
    return study
