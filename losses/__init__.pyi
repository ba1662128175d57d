from .adversarial import Adversarial, FeatureMatching
from .build import TERMS, build_objective, head_of
from .expression import Expression, WeightedTerm, defaults, parse
from .heads import NormalisedPixelHead, PixelHead
from .objective import Objective, Result, TermResult
from .options import TERM_OPTIONS, InvalidSetting, TermOptions, check_limits, chosen, nearest, option
from .perceptual import LPIPS, Perceptual
from .pixel import L1, MSE, SSIM, Charbonnier, MultiScaleSSIM, NormMSE
from .posterior import Flow, FlowHead, Mixture, MixtureHead
from .reconstruction import Reconstruction
from .term import Critic, Processes, Term, TermContext

__all__ = [
    "L1",
    "LPIPS",
    "MSE",
    "SSIM",
    "TERMS",
    "TERM_OPTIONS",
    "Adversarial",
    "Charbonnier",
    "Critic",
    "Expression",
    "FeatureMatching",
    "Flow",
    "FlowHead",
    "InvalidSetting",
    "Mixture",
    "MixtureHead",
    "MultiScaleSSIM",
    "NormMSE",
    "NormalisedPixelHead",
    "Objective",
    "Perceptual",
    "PixelHead",
    "Processes",
    "Reconstruction",
    "Result",
    "Term",
    "TermContext",
    "TermOptions",
    "TermResult",
    "WeightedTerm",
    "build_objective",
    "check_limits",
    "chosen",
    "defaults",
    "head_of",
    "nearest",
    "option",
    "parse",
]
