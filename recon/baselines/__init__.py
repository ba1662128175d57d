"""Baseline reconstructions, which every evaluation shows beside the trained ones."""

from recon.baselines.classical import SIMPLE, Ridge, biharmonic, mean, nearest_visible
from recon.baselines.windows import WindowKMeans, WindowPCA, WindowSample

__all__ = ["SIMPLE", "Ridge", "WindowKMeans", "WindowPCA", "WindowSample", "biharmonic", "mean", "nearest_visible"]
