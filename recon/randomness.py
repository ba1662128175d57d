"""Seeds of independent random streams, and the state of the random generators that a checkpoint keeps."""

from hashlib import blake2b
from typing import Any

import torch


def seed_of(*parts: int | str) -> int:
    """A 64-bit seed that depends on every part, the same on every machine: seed_of(seed, "mask", k)."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest())


def random_states() -> dict[str, Any]:
    """The random generators of every device in use."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():  # a run may go on with fewer devices, or more
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
