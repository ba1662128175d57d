"""Masked autoencoders under interchangeable reconstruction objectives, measured."""

import sys
from importlib.util import find_spec
from pathlib import Path

# `python -m` looks into the current folder first, and a user's losses.py there would be taken for this project's.
_losses = find_spec("losses")
if _losses is None or not _losses.origin or Path(_losses.origin).parents[1] != Path(__file__).parents[1]:
    _found = _losses.origin if _losses else "nothing"
    _why = f"{_found} is found in place of recon's package 'losses'; rename it, or start in another folder"
    if sys.argv[:1] != ["-m"]:
        raise ImportError(_why)
    print(_why, file=sys.stderr)
    sys.exit(2)
