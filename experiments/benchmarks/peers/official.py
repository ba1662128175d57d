"""The official MAE code, from a checkout of the user's own: `git clone https://github.com/facebookresearch/mae`.

Its licence is CC BY-NC 4.0: nothing of it is here. `models_mae.py` and `util/misc.py` are imported as they are. They
were written for timm 0.3.2, torch before 2 and numpy before 1.24. So, while they are imported and the model is built:

- timm's `Block` is called without `qk_scale`, which it no longer takes; theirs is always None, the default;
- `np.float` is Python's `float`, which it was; `torch._six.inf` is `math.inf`, which it was.

And so that what is measured is what they run:

- attention is written out, two products and a softmax between them, as timm 0.3.2 does it (`fused_attn` off);
- the optimiser is theirs: torch's AdamW as it comes, in the groups that timm's `optim_factory` made;
- an iteration is that of their `engine_pretrain.py`: forward, `loss.item()`, their scaler's backward, gradient norm and
  step, `zero_grad`, and on a GPU `synchronize`. Their meters and the learning rate are left out, in their favour.

One thing is not theirs: their autocast is float16; here everybody has bfloat16, or float32.
"""

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import timm.models.vision_transformer as vision_transformer
import torch
from timm.layers import Attention
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from experiments.benchmarks.peers.side import BETAS, LEARNING_RATE, WEIGHT_DECAY, Side, Task

MODEL = "models_mae.py"


class Official(Side):
    name = "official"

    def __init__(self, task: Task, weights: dict[str, Tensor], checkout: Path):
        sizes = task.sizes
        with _its_time(checkout):
            import models_mae
            from util.misc import NativeScalerWithGradNormCount

            model = models_mae.MaskedAutoencoderViT(
                img_size=task.image_size,
                patch_size=task.patch_size,
                embed_dim=sizes["width"],
                depth=sizes["depth"],
                num_heads=sizes["heads"],
                decoder_embed_dim=sizes["decoder_width"],
                decoder_depth=sizes["decoder_depth"],
                decoder_num_heads=sizes["decoder_heads"],
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                norm_pix_loss=True,
            )
            self.scaler = NativeScalerWithGradNormCount()
        for module in model.modules():
            if isinstance(module, Attention):
                module.fused_attn = False
        model.load_state_dict(weights)
        super().__init__(task, model.to(task.device))
        groups = param_groups_weight_decay(self.model, WEIGHT_DECAY)
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS)

    def loss(self, noise: Tensor | None = None) -> Tensor:
        if noise is not None:
            torch.manual_seed(0)  # it draws the very same
        return self.run(self.task.standardised, mask_ratio=self.task.mask_ratio)[0]

    def step(self) -> None:
        with self.autocast():
            loss = self.loss()
        if not math.isfinite(loss.item()):
            raise ArithmeticError("the official model's loss is not finite")
        self.scaler(loss, self.optimizer, parameters=self.model.parameters())
        self.optimizer.zero_grad()
        if self.task.device.type == "cuda":
            torch.cuda.synchronize()


@contextmanager
def _its_time(checkout: Path) -> Iterator[None]:
    """The environment that the official code was written for."""
    six = ModuleType("torch._six")
    six.inf = math.inf
    block = vision_transformer.Block
    with (
        mock.patch.object(vision_transformer, "Block", lambda *a, qk_scale=None, **named: block(*a, **named)),
        mock.patch.object(np, "float", float, create=True),
        mock.patch.dict(sys.modules, {"torch._six": six}),
        mock.patch.object(sys, "path", [str(checkout), *sys.path]),
        warnings.catch_warnings(action="ignore"),  # of names that torch calls otherwise now
    ):
        yield
