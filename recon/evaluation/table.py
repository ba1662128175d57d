"""The table that recon.evaluate prints: a few columns of many; evaluation.json has them all."""

from typing import Any

# Name and heading of the printed columns; those that the data or the machine do not have are left out.
COLUMNS = {
    "masked_psnr": "PSNR dB",
    "excess_mse": "excess MSE",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "tenengrad": "detail",  # over the truth's
    "blur_effect": "blur",
    "seam_ratio": "seams",
    "retention": "retention",
    "coherence": "coherence",
    "invented": "invented",
    "kid": "KID",
    "crps": "CRPS",
    "bits_per_dim": "bits/dim",
    "linear_mean": "linear",  # of probes, in a comparison
    "knn_20_mean": "20-NN",
}


def table(page: dict[str, Any]) -> str:
    """Rows of an evaluation with half the width of each interval behind the value.

    "detail" is the squared gradient (tenengrad) over the truth's.
    """
    columns = {name: title for name, title in COLUMNS.items() if _defined(page, name)}
    lines = [["", *columns.values()]]
    detail = page["rows"]["truth"]["values"]["tenengrad"]["value"]
    lines += [
        [row["label"], *(_cell(row["values"][name], detail if name == "tenengrad" else 1) for name in columns)]
        for row in page["rows"].values()
    ]
    return aligned(lines)


def aligned(lines: list[list[str]]) -> str:
    """Rows of cells as text: the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def undefined(page: dict[str, Any]) -> list[str]:
    """One line for each metric that no row has, with the reason."""
    truth = page["rows"]["truth"]["values"]
    return [
        f"{metric['name']}: {truth[metric['name']]['reason']}"
        for metric in page["metrics"]
        if not _defined(page, metric["name"])
    ]


def _defined(page: dict[str, Any], name: str) -> bool:
    return any(row["values"].get(name, {}).get("value") is not None for row in page["rows"].values())


def _cell(figures: dict[str, Any], unit: float) -> str:
    if figures["value"] is None or not unit:
        return "-"
    value, low, high = (figures[key] and figures[key] / unit for key in ("value", "low", "high"))
    digits = 2 if abs(value) >= 10 else 4 if abs(value) < 0.1 else 3
    half = "" if low is None or high is None or low == high else f" ±{(high - low) / 2:.{digits}f}"
    return f"{value:.{digits}f}{half}"
