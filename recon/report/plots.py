"""Every plot of a comparison, defined once for the page and for papers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recon.report.drawing import Interval, Plot, Series, looks
from recon.report.figures import write_picture

RETENTION, COHERENCE = "retention \u03c1", "coherence γ²"
RECOVERY = {"retention": RETENTION, "coherence": COHERENCE}


def write_plots(comparison: dict[str, Any], folder: Path) -> list[Path]:
    """Writes every plot that the comparison has data for as folder/NAME.png; returns the files."""
    look = looks(comparison["rows"])
    written = []
    for plot in plots(comparison):
        written.append(folder / f"{plot.name}.png")
        write_picture(plot, look, written[-1])
    return written


def plots(comparison: dict[str, Any]) -> list[Plot]:
    """Every plot that the comparison has data for, in the order of the page."""
    found = [
        perception_distortion(comparison),
        retention_coherence(comparison),
        *by_frequency(comparison),
        sharpness_seams(comparison),
        *by_distance(comparison),
        *by_ratio(comparison),
        *over_training(comparison),
    ]
    return [plot for plot in found if plot.series]


def perception_distortion(comparison: dict[str, Any]) -> Plot:
    """Distribution distance against masked MSE: Blau and Michaeli 2018, arXiv 1711.06077."""
    learnt = [row for row in comparison["rows"] if row["kind"] != "truth"]
    distance = "kid" if any(_value(row, "kid") is not None for row in learnt) else "sliced_wasserstein"
    return Plot(
        name="perception_distortion",
        title="Perception against distortion",
        about="Left: close to this very image. Down: like images in general. Beyond a frontier no reconstruction can "
        "have both; MSE pulls to the left, an adversarial term down.",
        x_label="masked MSE",
        y_label={"kid": "KID", "sliced_wasserstein": "sliced Wasserstein distance"}[distance],
        series=_points(comparison, "masked_mse", distance),
    )


def retention_coherence(comparison: dict[str, Any]) -> Plot:
    """Energy retention against squared coherence, per band of the hidden patch's DCT."""
    return Plot(
        name="retention_coherence",
        title="Energy kept against energy known",
        about="A point per frequency band. The best prediction under MSE lies on the diagonal: as much energy as is "
        "known. Above it energy is invented, below it known energy is left out.",
        x_label=COHERENCE,
        y_label=RETENTION,
        series=_curves(comparison, "bands", "coherence", {"retention": ""}, hover=("frequency", "cycles per pixel")),
        diagonal=True,
    )


def by_frequency(comparison: dict[str, Any]) -> list[Plot]:
    recovery = Plot(
        name="bands",
        title="Retention and coherence by frequency",
        about="Where a row's two lines part, the gap is invented energy; where both fall, detail is missing.",
        x_label="frequency (cycles per pixel)",
        y_label="share",
        series=_curves(comparison, "bands", "frequency", RECOVERY),
    )
    transfer = Plot(
        name="mtf",
        title="Texture transfer by frequency",
        about="The modulation transfer function, from the cross-spectrum: how much of the truth's texture comes "
        "through; noise does not count. 1 on the truth, lower where it is blurred.",
        x_label="frequency (cycles per pixel)",
        y_label="gain",
        series=_curves(comparison, "bands", "frequency", {"gain": ""}),
    )
    power = Plot(
        name="spectra",
        title="Radial power spectra",
        about="A line that leaves the truth's downwards is blurred from that frequency on; upwards is noise or seams.",
        x_label="frequency (cycles per pixel)",
        y_label="power",
        series=_curves(comparison, "spectra", "frequency", {"power": ""}),
        log_x=True,
        log_y=True,
    )
    return [recovery, transfer, power]


def sharpness_seams(comparison: dict[str, Any]) -> Plot:
    """Tenengrad over the truth's against the seam ratio: sharpness that is not made of patch borders."""
    truth = next((row for row in comparison["rows"] if row["kind"] == "truth"), None)
    sharpness, seams = (_value(truth, name) if truth else None for name in ("tenengrad", "seam_ratio"))
    return Plot(
        name="sharpness_seams",
        title="Sharpness against seams",
        about="The truth stands where the dotted lines cross. To its right patch borders show; below it is blur.",
        x_label="seam ratio",
        y_label="Tenengrad / the truth's",
        series=_points(comparison, "seam_ratio", "tenengrad", y_scale=1 / sharpness) if sharpness else [],
        log_x=True,
        guide=(seams, 1.0) if seams else None,
    )


def by_distance(comparison: dict[str, Any]) -> list[Plot]:
    error = Plot(
        name="distance_error",
        title="Error by distance to the nearest visible patch",
        about="Next to what is seen a patch can be continued; far from it, only imagined.",
        x_label="distance (patches)",
        y_label="MSE",
        series=_curves(comparison, "by_distance", "distance", {"mse": ""}),
        ticks=_places(comparison["by_distance"], "distance"),
    )
    recovery = Plot(
        name="distance_recovery",
        title="Retention and coherence by distance",
        about="What can be known fades with distance; retention that does not fade with it is invented.",
        x_label="distance (patches)",
        y_label="share",
        series=_curves(comparison, "by_distance", "distance", RECOVERY),
        ticks=_places(comparison["by_distance"], "distance"),
    )
    return [error, recovery]


def by_ratio(comparison: dict[str, Any]) -> list[Plot]:
    psnr = Plot(
        name="ratio_psnr",
        title="PSNR by mask ratio",
        about="The same runs with less or more of each image hidden.",
        x_label="mask ratio",
        y_label="masked PSNR (dB)",
        series=_curves(comparison, "by_ratio", "ratio", {"psnr": ""}),
        ticks=_places(comparison["by_ratio"], "ratio"),
    )
    recovery = Plot(
        name="ratio_recovery",
        title="Retention and coherence by mask ratio",
        about="The more is hidden, the less can be known; how a row's retention follows is its objective's doing.",
        x_label="mask ratio",
        y_label="share",
        series=_curves(comparison, "by_ratio", "ratio", RECOVERY),
        ticks=_places(comparison["by_ratio"], "ratio"),
    )
    return [psnr, recovery]


def over_training(comparison: dict[str, Any]) -> list[Plot]:
    norms = Plot(
        name="gradient_norms",
        title="Gradient norm of each term over training",
        about="A term whose gradient at the prediction vanishes teaches nothing.",
        x_label="step",
        y_label="gradient norm",
        series=_training(comparison, lambda curve: curve.removesuffix("/gradient_norm")),
        log_y=True,
    )
    cosines = Plot(
        name="gradient_cosines",
        title="Cosine between the terms' gradients over training",
        about="1: two terms ask for the same; 0: for unrelated things; below 0 they pull against each other.",
        x_label="step",
        y_label="cosine",
        series=_training(comparison, lambda curve: curve.removeprefix("cosine/")),
    )
    return [norms, cosines]


def _curves(
    comparison: dict[str, Any],
    table: str,
    x: str,
    columns: Mapping[str, str],
    hover: tuple[str, str] | None = None,
) -> list[Series]:
    """A series per row and column of comparison[table]; `columns` gives each its variant, `hover` a column and unit."""
    found = []
    for row in comparison["rows"]:
        data = comparison[table].get(row["key"])
        for column, variant in columns.items() if data else ():
            text = [f"{value:.3g} {hover[1]}" for value in data[hover[0]]] if hover else []
            found.append(Series(row["key"], row["label"], data[x], data[column], "lines+markers", variant, text))
    return found


def _points(comparison: dict[str, Any], x: str, y: str, y_scale: float = 1.0) -> list[Series]:
    """A point per row that has both metrics."""
    found = []
    for row in comparison["rows"]:
        at, height = _value(row, x), _value(row, y)
        if at is not None and height is not None:
            spread = [_interval(row, x, 1.0)], [_interval(row, y, y_scale)]
            found.append(Series(row["key"], row["label"], [at], [height * y_scale], "markers", "", (), *spread))
    return found


def _training(comparison: dict[str, Any], term: Callable[[str], str]) -> list[Series]:
    """A series per run and curve that `term` shortens to the name of a term or pair of terms."""
    return [
        Series(row["key"], row["label"], data["step"], values, "lines", term(curve))
        for row in comparison["rows"]
        if (data := comparison["training"].get(row["key"]))
        for curve, values in data["curves"].items()
        if term(curve) != curve
    ]


def _places(table: dict[str, Any], x: str) -> list[float]:
    """Every x of a table of curves."""
    return sorted({value for data in table.values() for value in data[x]})


def _value(row: dict[str, Any], metric: str) -> float | None:
    return row["values"].get(metric, {}).get("value")


def _interval(row: dict[str, Any], metric: str, scale: float) -> Interval:
    found = row["values"][metric]
    if found.get("low") is None or found.get("high") is None:
        return None
    return found["low"] * scale, found["high"] * scale
