"""Baseline reconstructions, which every evaluation shows beside the trained ones."""

from recon.baselines.classical import SIMPLE, Ridge, biharmonic, mean, nearest_visible

__all__ = ["SIMPLE", "Ridge", "biharmonic", "mean", "nearest_visible"]
