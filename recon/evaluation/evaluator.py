"""What is measured on a row of an evaluation, and how it is gathered batch by batch."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from losses import InvalidSetting
from recon.evaluation.results import Measured
from recon.evaluation.rows import Distribution
from recon.metrics import GROUPS, METRICS, SET_METRICS, Metric, MetricInfo, Pair, Undefined
from recon.metrics.base import grey_patches
from recon.metrics.deep import HALLUCINATION, LPIPS, VGG, FeatureDistance, Lpips, network_metrics
from recon.metrics.distribution import SlicedWasserstein
from recon.metrics.feature_networks import FeatureNetwork, load_features, title_of
from recon.metrics.realism import REALISM, TITLES, feature_scores
from recon.metrics.recovery import RECOVERY, distance_to_visible, pair_moments, summary
from recon.metrics.spectrum import SMALLEST_PATCH, band_means, dct2, power
from recon.metrics.uncertainty import moments, per_image_scores
from recon.result_table import Column, rounded
from recon.study_config import Measuring

FURTHEST = 4  # patches to the nearest visible one; those further away are counted there
EXCESS = MetricInfo(
    "excess_mse",
    "Mean squared error over hidden pixels beyond the least possible one, which this data's law gives.",
    "squared intensity",
    "lower",
    "the conditional mean given the visible pixels, recon.baselines.bayes",
    low=-math.inf,
)


@dataclass(frozen=True)
class MetricSuite:
    """All that is measured on a pair.

    Args:
        metrics: per image, by name.
        features: those in which sets of images are compared; None where they are not available.
        missing: metric -> why its network is not available.
        provenance: metric -> where its network's weights came from.
    """

    metrics: dict[str, Metric]
    features: FeatureNetwork | None
    missing: dict[str, str]
    provenance: dict[str, dict[str, str]]
    networks: list[torch.nn.Module]

    def to(self, device: torch.device, image_size: tuple[int, int]) -> "MetricSuite":
        """Moves the networks to the device; without sets of features where the images are too small for them."""
        for network in self.networks:
            network.to(device)
        try:
            if self.features is not None:
                self.features(torch.zeros(1, 3, *image_size, device=device))
        except Undefined as reason:
            return replace(self, features=None, missing=self.missing | dict.fromkeys(TITLES, str(reason)))
        return self


def load_suite(measuring: Measuring) -> MetricSuite:
    """All metrics, with LPIPS, the feature distance and features of sets on the CPU, as far as they are available."""
    suite = MetricSuite(dict(METRICS), None, {}, {}, [])
    lpips, features = measuring.lpips, measuring.features
    of_vgg19 = features.weights if features.network == "vgg19" else None
    makers: dict[tuple[str, ...], Callable[[], Lpips | FeatureDistance | FeatureNetwork]] = {
        ("lpips",): lambda: Lpips(lpips.net, lpips.weights),
        ("vgg19", "hallucination"): lambda: FeatureDistance(of_vgg19 or "bundled"),
        tuple(TITLES): lambda: load_features(features.network, features.weights, features.tap),
    }
    for names, make in makers.items():
        try:
            network = make()
        except InvalidSetting as reason:
            suite.missing.update(dict.fromkeys(names, str(reason)))
            continue
        suite.networks.append(network)
        suite.provenance.update(dict.fromkeys(names, network.provenance))
        if isinstance(network, FeatureNetwork):
            suite = replace(suite, features=network)
        else:
            suite.metrics.update({m.name: m for m in network_metrics(network, LPIPS[lpips.net])})
    return suite


def columns_of(measuring: Measuring, bound: bool) -> list[Column]:
    """The columns of an evaluation's table, in order, those of metrics that are not available too.

    Args:
        bound: whether the least possible error is known, and with it the excess over it.
    """
    features, title = measuring.features, title_of(measuring.features.network)
    layer = f", {features.tap}" if features.network == "vgg19" else ""
    about = f" Features: {title}{layer}; weights: {features.weights or 'its own'}."
    known: dict[str, MetricInfo] = {**METRICS, **SET_METRICS}
    for m in REALISM:
        known[m.name] = replace(m, description=m.description + about, title=f"{TITLES[m.name]}-{title}")
    known |= {m.name: m for m in (LPIPS[measuring.lpips.net], VGG, HALLUCINATION, EXCESS)}
    names = [(group, known[name]) for group in GROUPS for name in GROUPS[group] if bound or name != EXCESS.name]
    return [
        Column(
            *(group, m.name, m.description, m.unit, rounded(m.low), rounded(m.high)),
            *(m.better, m.reference, m.paired, m.title),
        )
        for group, m in names
    ]


class Evaluator:
    """Measures one row, batch by batch.

    Per-image numbers stay on the device until `compute`, so that a batch does not wait for them.

    Args:
        colour: (3,), the dataset's mean.
    """

    def __init__(self, suite: MetricSuite, patch_size: int, colour: Tensor):
        self.suite, self.colour = suite, colour
        self.reasons = dict(suite.missing)
        self.texture = SlicedWasserstein(patch_size) if patch_size >= SMALLEST_PATCH else None
        if self.texture is None:
            names = ("sliced_wasserstein", *(metric.name for metric in RECOVERY))
            self.reasons |= dict.fromkeys(names, f"patches below {SMALLEST_PATCH} pixels")
        self.batches: dict[str, list[Tensor]] = defaultdict(list)
        self.luma = self.blend = torch.zeros((), dtype=torch.float64)  # sums of `luma_moments`

    def update(self, pair: Pair, image: Tensor, of: Distribution | None = None, pictured: Sequence[int] = ()) -> None:
        """Takes in a batch.

        Args:
            image: (B, 3, H, W), the prediction as it is, also where the truth was visible.
            of: the distribution whose draws are scored; None: the one answer is scored.
            pictured: positions of the images whose predictions are kept as pictures.
        """
        batch: dict[str, Tensor] = {"pictures": as_bytes(image[list(pictured)])}
        for name, metric in self.suite.metrics.items():
            try:
                batch[name] = metric(pair).double()
            except Undefined as reason:
                self.reasons[name] = str(reason)
        if self.suite.features is not None:
            batch["features"] = self.suite.features.of(pair.predicted)
        if self.texture is not None:
            self.texture.update(pair)
            batch["moments"] = moments_by_distance(pair, self.colour)
            batch["power"] = band_means(power(pair)[0])
        draws = pair.image[None] if of is None else in_8_bits(of.samples(pair.truth, pair.mask))
        batch |= per_image_scores(draws, pair.truth, pair.mask)
        if of is None:
            del batch["ranks"]
        else:
            if (bits := of.bits_per_dim(pair.truth, pair.mask)) is not None:
                batch["bits_per_dim"] = bits.double()
            batch["draws"] = as_bytes(draws[:, list(pictured)].movedim(0, 1))
            mean = in_8_bits(of.rendered("mean")(pair.truth, pair.mask))
            self.blend = luma_moments(pair, mean, draws[0]).add_(self.blend)
        self.luma = luma_moments(pair, pair.image).add_(self.luma)
        for name, values in batch.items():
            self.batches[name].append(values)

    def compute(self, true_features: Tensor | None = None) -> Measured:
        """The numbers of all images, in the order of the batches. A metric that one batch has no value for has none.

        Args:
            true_features: (n, D), of the truth, for the metrics of sets of features.
        """
        joined = {name: torch.cat(parts) for name, parts in self.batches.items() if name not in self.reasons}
        features = joined.pop("features", None)
        if features is not None and true_features is not None:
            scores, reasons = feature_scores(features, true_features)
            joined |= scores
            self.reasons |= reasons
        if self.texture is not None:
            joined["sliced_wasserstein"] = self.texture.per_image()
        tensors = {name: values.cpu() for name, values in joined.items()}
        return Measured(tensors, self.reasons, self.luma.cpu(), self.blend.cpu() if self.blend.ndim else None)


class RatioEvaluator:
    """Measures one row under masks of another ratio: masked PSNR in dB, retention and coherence over all images."""

    def __init__(self, colour: Tensor):
        self.colour = colour
        self.psnr: list[Tensor] = []
        self.moments: list[Tensor] = []  # none where patches are too small for bands

    def update(self, pair: Pair) -> None:
        self.psnr.append(METRICS["masked_psnr"](pair))
        if pair.patch_size >= SMALLEST_PATCH:
            self.moments.append(pair_moments(pair, pair.mask[:, None], self.colour)[:, 0])

    def compute(self) -> dict[str, float]:
        psnr = torch.cat(self.psnr)
        found = {"psnr": psnr[psnr.isfinite()].mean().item()}
        if self.moments:
            moments = torch.cat(self.moments)
            sums = summary(moments[moments.flatten(1).isfinite().all(1)].sum(0))
            found |= {name: sums[name].item() for name in ("retention", "coherence")}
        return found


def in_8_bits(images: Tensor) -> Tensor:
    """Images as a file has them, in 256 levels of [0, 1], as the truth is; NaN stays NaN."""
    return (images.clamp(0, 1) * 255).round() / 255


def as_bytes(images: Tensor) -> Tensor:
    """[0, 1] to uint8."""
    return (images.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)


def luma_moments(pair: Pair, *images: Tensor) -> Tensor:
    """Summed second moments of 1, of images (B, 3, H, W) and of the truth: their hidden patches' luminance, if finite.

    D = p² DCT coefficients of each, or the 64 of lowest frequency of larger patches: (1 + kD, 1 + kD) float64.
    """
    side = min(8, pair.patch_size)
    each = [grey_patches(image, pair.patch_size) for image in images] + [pair.true_grey_patches]
    found = [dct2(patches[pair.mask].double())[:, :side, :side].flatten(1) for patches in each]
    vectors = torch.cat(found, dim=1)
    return moments(vectors[vectors.isfinite().all(1)])


def moments_by_distance(pair: Pair, colour: Tensor) -> Tensor:
    """`band_moments` of the hidden patches at each distance from the nearest visible one: (B, FURTHEST, bands, 4)."""
    distance = distance_to_visible(pair.mask, pair.grid).clamp(max=FURTHEST)
    at = one_hot(distance, FURTHEST + 1).mT[:, 1:]  # (B, FURTHEST, N); visible patches are at none
    return pair_moments(pair, at, colour)
