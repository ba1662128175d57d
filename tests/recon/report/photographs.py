"""Photographs, and what predictors whose faults are known make of them."""

from functools import cache

import numpy as np
import scipy.ndimage
import skimage.data

from recon.report.pictures import Pictures

H, W, P = 48, 64, 8
IMAGES, DRAWS = 6, 5
SCRIPT = "<script>alert(1)</script>"  # a run's name


@cache
def pictures() -> Pictures:
    """Truth, patch masks of three quarters, what each row predicts everywhere, and draws, surer of what is visible."""
    truth = np.stack([_tile(i) for i in range(IMAGES)])
    generator = np.random.default_rng(0)
    patches = generator.random((IMAGES, H // P * (W // P))).argsort(1) < H // P * (W // P) * 3 // 4
    hidden = patches.reshape(IMAGES, H // P, W // P).repeat(P, 1).repeat(P, 2)
    noise = generator.normal(0, 30, truth.shape)
    means = truth.reshape(IMAGES, H // P, P, W // P, P, 3).mean((2, 4)).repeat(P, 1).repeat(P, 2)
    visible = np.stack([image[~mask].mean(0) for image, mask in zip(truth, hidden, strict=True)])
    rows = {
        "truth": truth,
        "runs/mse": _blurred(truth, 1.6),
        "runs/adversarial": _blurred(truth, 0.8) + noise,
        f"runs/{SCRIPT}": _blurred(truth, 2.5) + noise / 3,
        "mosaic": means,
        "visible mean": np.broadcast_to(visible[:, None, None], truth.shape),
        "bayes": _blurred(truth, 1.3),
    }
    names = [f"photos/{_PHOTOGRAPHS[i % 3]}/val at {i}" for i in range(IMAGES)]
    mean, unsure = _blurred(truth, 1.4), np.where(hidden, 60, 12)[..., None]
    draws = [mean + unsure * _blurred(generator.normal(size=truth.shape), 0.8) for _ in range(DRAWS)]
    rows |= {"run/flow": mean, "sample/flow": draws[0], "draws/flow": np.mean(draws, 0)}
    predicted = {key: _bytes(images) for key, images in rows.items()}
    return Pictures(P, names, truth, hidden, predicted, {"draws/flow": _bytes(np.stack(draws, 1))})


_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")


def _tile(i: int) -> np.ndarray:
    photograph = getattr(skimage.data, _PHOTOGRAPHS[i % 3])()[::2, ::2]
    top, left = [(20, 90), (30, 60), (40, 100)][i % 3]
    return photograph[top + 30 * (i // 3) :, left:][:H, :W].copy()


def _blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(images.astype(float), (0, sigma, sigma, 0), mode="reflect")


def _bytes(images: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)
