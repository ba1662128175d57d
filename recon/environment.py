"""What the environment says of the processes that torchrun started; without torch, for the command line."""

import os


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_rank_zero() -> bool:
    """Whether this process may print before it has joined the others."""
    return os.environ.get("RANK", "0") == "0" or not under_torchrun()
