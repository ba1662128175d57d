"""Which terms there are, and an objective from what the user typed."""

from dataclasses import fields
from typing import Any

import torch

from losses.adversarial import Adversarial, FeatureMatching
from losses.expression import Expression, WeightedTerm, parse
from losses.flow import Flow
from losses.heads import PixelHead
from losses.mixture import Mixture
from losses.objective import Objective, common_head
from losses.options import InvalidSetting, nearest
from losses.perceptual import LPIPS, Perceptual
from losses.pixel import L1, MSE, Charbonnier, NormMSE
from losses.processes import ALONE, Processes
from losses.structural import SSIM, MultiScaleSSIM
from losses.term import Surroundings, Term

# A new term stands here, and its settings in `losses.options.TERM_OPTIONS`.
TERMS: dict[str, type[Term]] = {
    "mse": MSE,
    "norm_mse": NormMSE,
    "l1": L1,
    "charbonnier": Charbonnier,
    "ssim": SSIM,
    "ms_ssim": MultiScaleSSIM,
    "perceptual": Perceptual,
    "lpips": LPIPS,
    "feature_matching": FeatureMatching,
    "adversarial": Adversarial,
    "mixture": Mixture,
    "flow": Flow,
}


def build_objective(
    expression: str,
    *,
    over: str = "hidden",
    image_size: int | tuple[int, int] = 64,
    steps: int | None = None,
    critic_dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    processes: Processes = ALONE,
    **options: Any,
) -> Objective:
    """An objective from what the user typed.

    Args:
        expression: e.g. "mse", "perceptual + mse", "mse + 0.1*l1 + 10%perceptual"; see `losses.expression.parse`.
        over: "hidden" or "all": the patches that are judged.
        image_size: H and W in pixels; a discriminator's depth depends on it.
        steps: length of the run, for terms that are ramped in; None: no ramp.
        critic_dtype: precision of critics' forward and backward; bfloat16 where the device does it well.
        compiled: whether critics are compiled (a minute at the start, faster after).
        processes: those that share each batch in equal parts; by default this one has it whole.
        **options: per term, its options by name: `perceptual={"weights": "random"}`.

    Raises:
        InvalidSetting: one line that names what cannot be used, and the remedy.
    """
    parsed = _parsed(expression)
    for name in options:
        if name not in TERMS:
            raise InvalidSetting(
                f"options for an unknown loss term '{name}'{nearest(name, TERMS)} (terms: {', '.join(TERMS)})"
            )
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    surroundings = Surroundings(size, steps, critic_dtype, compiled, processes)
    chosen = {name: _options(name, options.get(name, {})) for name in TERMS}
    terms = {t.name: TERMS[t.name](chosen[t.name], surroundings) for t in parsed.terms}
    return Objective(parsed, terms, over, surroundings.processes)


def head_of(expression: str, **options: Any) -> PixelHead:
    """What the decoder must put out for an objective; the arguments are `build_objective`'s.

    Raises:
        InvalidSetting: as `build_objective`.
    """
    names = [t.name for t in _parsed(expression).terms]
    return common_head({name: TERMS[name].head_of(_options(name, options.get(name, {}))) for name in names})


def _parsed(expression: str) -> Expression:
    """With every term of `TERMS`, those too that a program put there."""
    defaults = {name: WeightedTerm(name, t.default_weight, t.default_is_share) for name, t in TERMS.items()}
    return parse(expression, defaults)


def _options(name: str, given: Any) -> Any:
    cls = TERMS[name].Options
    if isinstance(given, cls):
        return given
    known = [f.name for f in fields(cls)]
    for key in given:
        if key not in known:
            raise InvalidSetting(
                f"unknown setting losses.{name}.{key}{nearest(key, known)} (settings: {', '.join(known) or 'none'})"
            )
    return cls(**given)
