"""The terms by name, and how an expression becomes an objective."""

from dataclasses import fields
from typing import Any

import torch

from losses.adversarial import Adversarial, FeatureMatching
from losses.expression import Expression, defaults, parse
from losses.filtered import Fourier, Gradient, LowPass
from losses.heads import PixelHead
from losses.objective import Objective, common_head
from losses.options import InvalidSetting, check_limits, nearest
from losses.perceptual import LPIPS, Perceptual
from losses.pixel import L1, MSE, SSIM, Charbonnier, MultiScaleSSIM, NormMSE
from losses.posterior import Flow, Mixture
from losses.targets import HOG, PCA, Features
from losses.term import SINGLE_PROCESS, Processes, Term, TermContext
from losses.tokens import Tokens

# Register a new term here, and its settings in `losses.options.TERM_OPTIONS`.
TERMS: dict[str, type[Term]] = {
    "mse": MSE,
    "norm_mse": NormMSE,
    "l1": L1,
    "charbonnier": Charbonnier,
    "ssim": SSIM,
    "ms_ssim": MultiScaleSSIM,
    "low_pass": LowPass,
    "fourier": Fourier,
    "gradient": Gradient,
    "pca": PCA,
    "tokens": Tokens,
    "hog": HOG,
    "features": Features,
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
    processes: Processes = SINGLE_PROCESS,
    **options: Any,
) -> Objective:
    """Builds an objective from an expression.

    Args:
        expression: e.g. "mse", "perceptual + mse", "mse + 0.1*l1 + 10%perceptual"; see `losses.expression.parse`.
        over: "hidden" or "all": the patches that are compared.
        image_size: H and W in pixels; a discriminator's depth depends on it.
        steps, critic_dtype, compiled, processes: see `TermContext`. Compiling takes a minute at the start.
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
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    context = TermContext((height, width), steps, critic_dtype, compiled, processes)
    chosen = {name: _options(name, options.get(name, {})) for name in TERMS}
    terms = {t.name: TERMS[t.name](chosen[t.name], context) for t in parsed.terms}
    return Objective(parsed, terms, over, processes)


def head_of(expression: str, **options: Any) -> PixelHead:
    """The head that an objective needs, without building its critics; the arguments are `build_objective`'s.

    Raises:
        InvalidSetting: as `build_objective`.
    """
    names = [t.name for t in _parsed(expression).terms]
    return common_head({name: TERMS[name].head_of(_options(name, options.get(name, {}))) for name in names})


def _parsed(expression: str) -> Expression:
    """Knows every term of `TERMS`, also those that a program added."""
    return parse(expression, defaults({name: term.Options for name, term in TERMS.items()}))


def _options(name: str, given: Any) -> Any:
    """A term's options, checked, from its `Options` or from a mapping."""
    cls = TERMS[name].Options
    if not isinstance(given, cls):
        known = [f.name for f in fields(cls)]
        for key in given:
            if key not in known:
                raise InvalidSetting(
                    f"unknown setting losses.{name}.{key}{nearest(key, known)} (settings: {', '.join(known) or 'none'})"
                )
        given = cls(**given)
    check_limits(given, f"losses.{name}.")
    return given
