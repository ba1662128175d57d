"""Seeds for independent random streams."""

from hashlib import blake2b


def seed_of(*parts: int | str) -> int:
    """A 64-bit seed that depends on every part, the same on every machine: seed_of(seed, "mask", k)."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest())
