"""transformers' ViTMAE, with its own choice of attention."""

from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.utils.logging import disable_progress_bar

from experiments.benchmarks.peers.side import Side, Task
from recon.model.formats.hugging_face import from_official


class HuggingFace(Side):
    name = "transformers"

    def __init__(self, task: Task, weights: dict[str, Tensor]):
        sizes = task.sizes
        config = ViTMAEConfig(
            image_size=task.image_size,
            patch_size=task.patch_size,
            hidden_size=sizes["width"],
            intermediate_size=4 * sizes["width"],
            num_hidden_layers=sizes["depth"],
            num_attention_heads=sizes["heads"],
            decoder_hidden_size=sizes["decoder_width"],
            decoder_intermediate_size=4 * sizes["decoder_width"],
            decoder_num_hidden_layers=sizes["decoder_depth"],
            decoder_num_attention_heads=sizes["decoder_heads"],
            layer_norm_eps=1e-6,
            mask_ratio=task.mask_ratio,
            norm_pix_loss=True,
        )
        disable_progress_bar()
        model = ViTMAEForPreTraining(config)
        # It translates names only where it loads; and then its positions, which are constants, want gradients.
        named = ViTMAEForPreTraining.from_pretrained(None, config=config, state_dict=from_official(weights))
        model.load_state_dict(named.state_dict())
        super().__init__(task, model.to(task.device))

    def loss(self, noise: Tensor | None = None) -> Tensor:
        return self.run(self.task.standardised, noise=noise).loss
