"""Settings of recon.compare."""

from dataclasses import dataclass, field

from losses.term import option
from recon.evaluation.settings import Measuring


@dataclass
class CompareSettings(Measuring):
    runs: list[str] = field(default_factory=list, metadata={"doc": "the runs' folders; simply typed one after another"})
    out: str = option("runs/comparison", "folder of the report")
    again: bool = option(False, "evaluate anew also where an evaluation of the same model and settings is there")
