"""What an acceptance is asked to do, and where."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """`device`: cpu, cuda or cuda:N; `out`: the folder for what is to be kept. `data`, `official`, `lpips` and
    `features` are places, None where there is nothing. `scratch` goes in the end; `seconds` are those of this part.
    """

    device: str
    out: Path
    data: Path | None = None
    official: Path | None = None
    lpips: Path | None = None
    features: Path | None = None
    scratch: Path = Path()
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        """cuda or cpu: which sizes are measured."""
        return "cuda" if self.device.startswith("cuda") else "cpu"
