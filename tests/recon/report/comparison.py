"""A comparison as `recon.compare` makes it, of photographs and of predictors whose faults are known."""

from functools import cache
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage

from recon.evaluation.protocol import Protocol
from recon.result_table import PLACES, Column, Comparison, Difference, Made, Results, RowInfo, Value
from tests.recon.report.photographs import DRAWS, IMAGES, SCRIPT, H, P, W, pictures

METRICS = {
    "masked_mse": ("fidelity", "Mean squared error over hidden pixels of the composite.", "", 0, None, "lower"),
    "masked_psnr": ("fidelity", "Peak signal-to-noise ratio over hidden pixels.", "dB", 0, None, "higher"),
    "ms_ssim": ("structure", "Structural similarity at several scales, averaged over hidden area.", "", 0, 1, "higher"),
    "tenengrad": ("sharpness", "Mean squared Sobel gradient inside hidden patches.", "", 0, None, "truth"),
    "seam_ratio": ("sharpness", "Gradient across patch borders over gradient elsewhere.", "", 0, None, "truth"),
    "retention": ("recovery", "Energy of hidden patches, of the truth's, above the mean.", "share", 0, None, "truth"),
    "kid": ("distribution", "Squared distance of feature distributions (MMD, cubic kernel).", "", None, None, "lower"),
    "linear_mean": ("representation", "Accuracy of a linear classifier on frozen features.", "share", 0, 1, "higher"),
}
TITLES = {"kid": "KD-VGG19"}
REASONS = {
    "masked_psnr": "not defined: no error at all",
    "ms_ssim": "not defined: images below 176 pixels",
    "kid": "not defined: the truth is what others are compared with",
    "linear_mean": "has no encoder",
}
ROWS = [
    ("truth", "truth", None),
    ("runs/mse", "run", None),
    ("runs/adversarial", "run", "oracle: rendered with the true patch statistics"),
    (f"runs/{SCRIPT}", "run", None),
    ("run/flow", "run", None),
    ("sample/flow", "run", None),
    ("draws/flow", "run", None),
    ("mosaic", "simple", None),
    ("visible mean", "simple", None),
    ("bayes", "bound", "the best that MSE allows, in closed form"),
]
TRAINED = ["runs/mse", "runs/adversarial", f"runs/{SCRIPT}", "run/flow"]  # a row of each run
LABELS = {
    "run/flow": "flow (mean)",
    "sample/flow": "flow (sample)",
    "draws/flow": f"flow (mean of {DRAWS} draws)",
}


@cache
def comparison() -> dict[str, Any]:
    """Numbers of `pictures`, table by table; undefined are ms_ssim everywhere and KID of the truth."""
    scores = {key: _scores(key) for key, _, _ in ROWS}
    rows = [
        {
            "key": key,
            "label": label(key),
            "kind": kind,
            "note": note,
            "values": {name: _summary(scores[key].get(name), REASONS.get(name)) for name in METRICS},
        }
        for key, kind, note in ROWS
    ]
    return {
        "created": "2026-11-22T01:00:00",
        "title": "Blur, noise & <b>patches</b>",
        "protocol": {
            "data": "photos",
            "split": "val",
            "images": IMAGES,
            "image_size": [H, W],
            "patch_size": P,
            "masking": "random",
            "ratio": 0.75,
            "seed": 0,
            "caveat": "Only an example.",
            "digest": "3f1c9a7be20d",
        },
        "metrics": [_info(name, *METRICS[name]) for name in METRICS],
        "rows": rows,
        "best": {name: [] for name in METRICS} | {"masked_mse": ["runs/mse"], "masked_psnr": ["runs/mse"]},
        "differences": [
            _difference(scores, name, a, b) for a, b in _pairs(TRAINED) for name in ("masked_psnr", "seam_ratio")
        ],
        "bands": {key: _bands(key) for key, _, _ in ROWS},
        "by_distance": {key: _by_distance(i) for i, key in enumerate(TRAINED)},
        "by_ratio": {},
        "spectra": {key: _spectrum(key) for key, _, _ in ROWS},
        "planes": {key: _plane(_coefficients(key)) for key, _, _ in ROWS},
        "blends": {"draws/flow": _blend("run/flow", "sample/flow")},
        "calibration": {key: _calibration(key) for key in pictures().draws},
        "training": {key: _training(i) for i, key in enumerate(TRAINED)},
        "checkpoints": {f"runs/{SCRIPT}": _checkpoint()},
        "by_depth": {key: _by_depth(i) for i, key in enumerate(TRAINED)},
        "by_blocks": {},
        "by_labels": {TRAINED[0]: {"fraction": [0.01, 0.1, 1.0], "linear mean": [0.2, 0.35, 0.5]}},
        "made": {key: _made(key, i) for i, key in enumerate(TRAINED)},
    }


def typed(numbers: dict[str, Any] | None = None) -> Comparison:
    """The comparison as the report takes it, from numbers as `comparison` has them."""
    numbers = numbers or comparison()
    values: list[Value] = []

    def add(row: str, kind: str, at: list, columns: dict[str, list]) -> None:
        for name, found in columns.items():
            values.extend(Value("", row, name, kind, *point) for point in zip(at, found, strict=True))

    for row in numbers["rows"]:
        values += [Value("", row["key"], name, **found) for name, found in row["values"].items()]
    for row, plane in numbers["planes"].items():
        values += [Value("", row, f"luma_{name}", value=number) for name, number in plane.items()]
    for kind in PLACES.keys() & numbers.keys() - {"training"}:
        for row, data in numbers[kind].items():
            add(row, kind, data[PLACES[kind]], {name: found for name, found in data.items() if name != PLACES[kind]})
    for row, data in numbers["training"].items():
        add(row, "training", data["step"], data["curves"])
    for row, data in numbers["calibration"].items():
        add(row, "ranks", [i / data["draws"] for i in range(data["draws"] + 1)], {"share": data["ranks"]})
        add(row, "coverage", data["expected"], {"coverage": data["coverage"]})
    protocol = dict(numbers["protocol"])
    digest, caveat = protocol.pop("digest"), protocol.pop("caveat")
    rows = [{name: found for name, found in row.items() if name != "values"} for row in numbers["rows"]]
    return Comparison(
        numbers["title"],
        numbers["created"],
        Protocol(**protocol | {"image_size": (H, W)}),
        digest,
        caveat,
        [Column(**column, title=TITLES.get(column["name"], "")) for column in numbers["metrics"]],
        [RowInfo(**row) for row in rows],
        Results(values),
        numbers["best"],
        [Difference(**difference) for difference in numbers["differences"]],
        {key: Made(**made) for key, made in numbers["made"].items()},
        numbers["checkpoints"],
    )


def comparison_but(*keys: str) -> dict[str, Any]:
    """Without these rows, in every table."""
    found = comparison() | {"rows": [row for row in comparison()["rows"] if row["key"] not in keys]}
    found["differences"] = [d for d in found["differences"] if not {d["a"], d["b"]} & set(keys)]
    for name, table in found.items():
        if isinstance(table, dict):  # by key, or by what no row is called
            found[name] = {key: values for key, values in table.items() if key not in keys}
    return found


def label(key: str) -> str:
    """A row in words."""
    return LABELS.get(key, key.removeprefix("runs/"))


def _composite(key: str) -> np.ndarray:
    data = pictures()
    return np.where(data.hidden[..., None], data.rows[key], data.truth) / 255


def _scores(key: str) -> dict[str, np.ndarray]:
    """Metric -> a value per image; roughly what recon.metrics computes."""
    data, image = pictures(), _composite(key)
    hidden, truth = data.hidden, data.truth / 255
    mse = np.array([((a - b)[m] ** 2).mean() for a, b, m in zip(image, truth, hidden, strict=True)])
    grey = image.mean(-1)
    steps = np.abs(np.diff(grey, axis=2))
    borders = np.zeros(W - 1, bool)
    borders[P - 1 :: P] = True
    slopes = scipy.ndimage.sobel(grey, 1) ** 2 + scipy.ndimage.sobel(grey, 2) ** 2
    energy, true_energy = _coefficients(key)[..., 1:] ** 2, _coefficients("truth")[..., 1:] ** 2
    found = {
        "masked_mse": mse,
        "tenengrad": np.array([values[mask].mean() for values, mask in zip(slopes, hidden, strict=True)]),
        "seam_ratio": steps[:, :, borders].mean((1, 2)) / steps[:, :, ~borders].mean((1, 2)),
        "retention": energy.mean((1, 2)) / true_energy.mean((1, 2)),
    }
    if key in TRAINED:
        found["linear_mean"] = np.array([0.4, 0.6, 0.5, 0.3, 0.7, 0.5]) + 0.1 * ("adv" in key)
    if key != "truth":
        found |= {"masked_psnr": -10 * np.log10(mse), "kid": mse * (0.2 if "adv" in key else 1.5)}
    return found


def _summary(values: np.ndarray | None, reason: str | None = None) -> dict[str, Any]:
    if values is None:
        return {"value": None, "low": None, "high": None, "n": 0, "reason": reason}
    error = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    mean = values.mean()
    return {"value": float(mean), "low": float(mean - error), "high": float(mean + error), "n": IMAGES, "reason": None}


def _info(name: str, group: str, description: str, unit: str, low: Any, high: Any, better: str) -> dict[str, Any]:
    about = {"name": name, "group": group, "description": description, "unit": unit}
    about |= {"low": low, "high": high, "better": better}
    return {**about, "reference": f"Author & Author 20{len(name)}; equals scikit-image", "paired": better != "truth"}


def _checkpoint() -> dict[str, str]:
    """What is known of somebody else's file."""
    said = {"format": "the official MAE code", "encoder": "12 blocks of width 192", "decoder": "none", "target": "none"}
    return said | {"notes": SCRIPT, "sha256": "00ff", "command": "python -m recon.evaluate run=x.pth"}


def _by_depth(i: int) -> dict[str, list[float | None]]:
    """Only the first two runs have a class token's curve."""
    found = {"layer": [1, 2, 3, 4], "linear mean": [0.2 + 0.1 * i, 0.3, 0.4, 0.45]}
    return found | ({"linear class": [0.1, 0.2, None, 0.3]} if i < 2 else {})


def _pairs(runs: list[str]) -> list[tuple[str, str]]:
    return [(a, b) for i, a in enumerate(runs) for b in runs[i + 1 :]]


def _difference(scores: dict[str, Any], name: str, a: str, b: str) -> dict[str, Any]:
    found = _summary(scores[a][name] - scores[b][name])
    excludes = not found["low"] <= 0 <= found["high"]
    numbers = {key: found[key] for key in ("value", "low", "high", "n")}
    return {"metric": name, "a": a, "b": b, **numbers, "excludes_zero": excludes}


def _coefficients(key: str) -> np.ndarray:
    return _of_hidden_patches(pictures().rows[key])


def _of_hidden_patches(images: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) uint8 to the DCT coefficients of hidden grey patches, (n, hidden patches, P * P)."""
    grey = (images / 255).mean(-1).reshape(IMAGES, H // P, P, W // P, P).swapaxes(2, 3)
    patches = grey[pictures().hidden[:, ::P, ::P]].reshape(IMAGES, -1, P, P)
    return scipy.fft.dctn(patches, axes=(-2, -1), norm="ortho").reshape(IMAGES, -1, P * P)


def _bands(key: str) -> dict[str, list[float]]:
    found, true = (_coefficients(name).reshape(-1, P * P) for name in (key, "truth"))
    radius = np.hypot(*np.mgrid[:P, :P]).round().astype(int).ravel()
    table: dict[str, list[float]] = {name: [] for name in ("frequency", "retention", "coherence", "error", "gain")}
    for band in range(1, P):
        a, b = found[:, radius == band].ravel(), true[:, radius == band].ravel()
        energy = (b * b).mean()
        table["frequency"].append(band / (2 * P))
        table["retention"].append(float((a * a).mean() / energy))
        table["coherence"].append(float((a * b).mean() ** 2 / max((a * a).mean() * energy, 1e-12)))
        table["error"].append(float(((a - b) ** 2).mean() / energy))
        table["gain"].append(float((a * b).mean() / energy))
    return table


def _plane(found: np.ndarray) -> dict[str, float]:
    """Squared error and distance of Gaussians from the truth, per value, of coefficients (n, hidden patches, P * P)."""
    x, y = (values.reshape(-1, P * P) for values in (found, _coefficients("truth")))
    covariances = [np.cov(values.T, bias=True) for values in (x, y)]
    roots = [axes * np.sqrt(values.clip(0)) @ axes.T for values, axes in map(np.linalg.eigh, covariances)]
    apart = ((x.mean(0) - y.mean(0)) ** 2).sum() + sum(map(np.trace, covariances))
    distance = apart - 2 * np.linalg.norm(roots[0] @ roots[1], "nuc")
    return {"mse": float(((x - y) ** 2).mean()), "w2": float(max(distance, 0) ** 0.5 / P)}


def _blend(mean: str, draw: str) -> dict[str, list[float]]:
    x, y = _coefficients(mean), _coefficients(draw)
    alphas = [i / 20 for i in range(21)]
    planes = [_plane(x + alpha * (y - x)) for alpha in alphas]
    return {"alpha": alphas} | {name: [plane[name] for plane in planes] for name in ("mse", "w2")}


def _calibration(key: str) -> dict[str, Any]:
    draws = np.stack([_of_hidden_patches(images) for images in pictures().draws[key].swapaxes(0, 1)])
    ranks = np.bincount((draws < _coefficients("truth")).sum(0).ravel(), minlength=DRAWS + 1)
    ranks = ranks / ranks.sum()
    inner = range(1, DRAWS // 2 + 1)
    return {
        "draws": DRAWS,
        "ranks": ranks.tolist(),
        "expected": [(DRAWS + 1 - 2 * k) / (DRAWS + 1) for k in inner],
        "coverage": [float(ranks[k : DRAWS + 1 - k].sum()) for k in inner],
    }


def _spectrum(key: str) -> dict[str, list[float]]:
    power = np.abs(np.fft.fft2(_composite(key).mean(-1)[:, :, :H])) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(H), np.fft.fftfreq(H))) * H
    rings = range(1, H // 2)
    values = [float(power[:, radius.round() == ring].mean()) for ring in rings]
    return {"frequency": [ring / H for ring in rings], "power": values}


def _by_distance(i: int) -> dict[str, list[float]]:
    steps = np.arange(1, 5)
    decay = np.exp(-steps / 2)
    curves = {
        "mse": 0.03 - (0.02 - 0.004 * i) * decay,
        "retention": 0.4 * i + (1 - 0.4 * i) * decay,
        "coherence": 0.9 * decay,
    }
    return {"distance": steps.tolist(), **{name: values.tolist() for name, values in curves.items()}}


def _training(i: int) -> dict[str, Any]:
    steps = np.arange(0, 1100, 10)
    generator = np.random.default_rng(i)
    curves = {
        "mse/gradient_norm": (np.exp(-steps / 400) + 0.1) * generator.lognormal(0, 0.05, len(steps)),
        "perceptual/gradient_norm": 0.1 * (i + 1) * generator.lognormal(0, 0.1, len(steps)),
        "cosine/perceptual~mse": 0.4 - 0.2 * i + generator.normal(0, 0.05, len(steps)),
    }
    values = {name: [float(value) for value in curve] for name, curve in curves.items()}
    values["cosine/perceptual~mse"][3] = None
    return {"step": steps.tolist(), "curves": values}


def _made(key: str, i: int) -> dict[str, Any]:
    return {
        "expression": ["mse", "80%adversarial + mse", "0.01*perceptual + mse", "flow"][i],
        "differs": {
            "loss": ["mse", "80%adversarial+mse", "perceptual+mse", "flow"][i],
            "optim.base_lr": [0.01, 0.002, 0.002, 0.002][i],
        },
        "weights": {"perceptual": {"source": "bundled", "sha256": "eb2f742c1de1" * 5 + "0123"}} if i in (1, 2) else {},
        "steps": 1100,
        "model": "00ff",
        "commands": [f"python -m recon.pretrain name='{key}'", f"python -m recon.evaluate run='{key}'"],
    }
