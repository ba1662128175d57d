"""lightly's masked autoencoder, put together from its modules as its documentation's example does.

https://docs.lightly.ai/self-supervised-learning/examples/mae.html; there the target is not normalised, here
`lightly.models.utils.normalize_mean_var` does it. Only hidden patches are predicted, as in the example.
"""

import re
import warnings

import torch
from lightly.models import utils
from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from experiments.benchmarks.peers.side import Side, Task


class Lightly(Side):
    name = "lightly"

    def __init__(self, task: Task, weights: dict[str, Tensor]):
        model = _MAE(task)
        # What is not there: a mask token of the encoder, which nothing uses.
        missing, unexpected = model.load_state_dict({_theirs(name): value for name, value in weights.items()}, False)
        assert missing == ["backbone.mask_token"] and not unexpected, (missing, unexpected)
        super().__init__(task, model.to(task.device))

    def loss(self, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            size = (self.task.batch, 1 + self.task.patches)
            chosen = utils.random_token_mask(size, self.task.mask_ratio, device=self.task.device)
        else:
            class_token = torch.zeros(len(noise), 1, dtype=torch.long, device=noise.device)
            order = torch.cat([class_token, 1 + noise.argsort(dim=1)], dim=1)
            chosen = order[:, : 1 + self.task.visible], order[:, 1 + self.task.visible :]
        predicted, true = self.run(self.task.standardised, *chosen)
        return nn.functional.mse_loss(predicted, true)


class _MAE(nn.Module):
    def __init__(self, task: Task):
        super().__init__()
        sizes = task.sizes
        vit = VisionTransformer(
            img_size=task.image_size,
            patch_size=task.patch_size,
            num_classes=0,
            embed_dim=sizes["width"],
            depth=sizes["depth"],
            num_heads=sizes["heads"],
        )
        self.patch_size = task.patch_size
        self.backbone = MaskedVisionTransformerTIMM(vit)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # it goes in 1.7
            self.decoder = MAEDecoderTIMM(
                num_patches=task.patches,
                patch_size=task.patch_size,
                embed_dim=sizes["width"],
                decoder_embed_dim=sizes["decoder_width"],
                decoder_depth=sizes["decoder_depth"],
                decoder_num_heads=sizes["decoder_heads"],
            )

    def forward(self, images: Tensor, keep: Tensor, hide: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden patches as predicted and as they are, (B, h, P) each; positions count the class token."""
        tokens = self.decoder.embed(self.backbone.encode(images, idx_keep=keep))
        row = utils.repeat_token(self.decoder.mask_token, (len(images), self.backbone.sequence_length))
        row = self.decoder.decode(utils.set_at_index(row, keep, tokens.type_as(row)))
        predicted = self.decoder.predict(utils.get_at_index(row, hide))
        true = utils.get_at_index(utils.patchify(images, self.patch_size), hide - 1)
        return predicted, utils.normalize_mean_var(true)


def _theirs(name: str) -> str:
    """An official name in this model."""
    return f"decoder.{name}" if re.match("decoder|mask_token", name) else f"backbone.vit.{name}"
