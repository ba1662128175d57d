"""The masked autoencoder and its sizes."""

from typing import Any

from losses import InvalidSetting, nearest
from losses.heads import PixelHead
from losses.posterior import FlowHead, MixtureHead
from recon.model.distributions import SIDE_MULTIPLE
from recon.model.layers import SHRINK
from recon.model.mae import MaskedAutoencoder
from recon.model.masking import corrupts, visible_count

# The MAE paper's sizes with its decoder; tiny (DeiT's) and small with a decoder about half as wide as the encoder.
SIZES: dict[str, dict[str, int]] = {
    "nano": dict(patch_size=8, width=192, depth=4, heads=3, decoder_width=128, decoder_depth=2),
    "tiny": dict(patch_size=16, width=192, depth=12, heads=3, decoder_width=128, decoder_depth=4),
    "small": dict(patch_size=16, width=384, depth=12, heads=6, decoder_width=256, decoder_depth=4),
    "base": dict(patch_size=16, width=768, depth=12, heads=12, decoder_width=512, decoder_depth=8),
    "large": dict(patch_size=16, width=1024, depth=24, heads=16, decoder_width=512, decoder_depth=8),
    "huge": dict(patch_size=14, width=1280, depth=32, heads=16, decoder_width=512, decoder_depth=8),
}

DECODER_HEAD_WIDTH = 32  # 512 / 16, the paper's


def create_model(name: str, *, image_size: int | tuple[int, int] = 224, **overrides: Any) -> MaskedAutoencoder:
    """A masked autoencoder by size: nano, tiny, small, base, large or huge.

    Args:
        image_size: H = W, or (H, W), in pixels.
        **overrides: any argument of `MaskedAutoencoder`; None keeps the size's own.

    Raises:
        InvalidSetting: an unknown size, an image that the patch size does not divide, or a width that does not fit.
    """
    if name not in SIZES:
        raise InvalidSetting(f"unknown model '{name}'{nearest(name, SIZES)} (models: {', '.join(SIZES)})")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    size = height, width
    made: dict[str, Any] = SIZES[name] | {key: value for key, value in overrides.items() if value is not None}
    p = made["patch_size"]
    if p < 1 or size[0] % p or size[1] % p or min(size) < p:
        raise InvalidSetting(
            f"images of {size[0]}x{size[1]} do not divide into patches of {p}; "
            "change data.image_size or model.patch_size"
        )
    decoder_width = made["decoder_width"]
    if decoder_width < DECODER_HEAD_WIDTH or decoder_width % DECODER_HEAD_WIDTH:
        raise InvalidSetting(f"model.decoder_width={decoder_width} is not a multiple of {DECODER_HEAD_WIDTH}")
    if made.get("mask_tokens", "decoder") not in ("decoder", "encoder"):
        raise InvalidSetting(f"model.mask_tokens={made['mask_tokens']}: choose 'decoder' or 'encoder'")
    if made.get("refiner_width"):
        if any(side % SHRINK**2 for side in size):
            raise InvalidSetting(
                f"model.refiner_width: a refiner needs image sides that are multiples of {SHRINK**2}, "
                f"not {size[0]}x{size[1]}; set it to 0"
            )
        if (head := made.get("head")) is not None and type(head) is not PixelHead:
            raise InvalidSetting(
                f"model.refiner_width={made['refiner_width']}: a refiner corrects pixels, and this objective predicts "
                f"{head.name}; set it to 0"
            )
    head = made.get("head")
    if isinstance(head, MixtureHead):
        head.component_count(3 * p**2)  # refuses more components than a patch has values
    if isinstance(head, FlowHead) and head.network == "conv" and any(side % SIDE_MULTIPLE for side in size):
        raise InvalidSetting(
            f"losses.flow.network=conv needs image sides that are multiples of {SIDE_MULTIPLE}, "
            f"not {size[0]}x{size[1]}; give losses.flow.network=patch"
        )
    ratio, masking = made.get("mask_ratio", 0.75), made.get("mask_strategy", "random")
    if corrupts(masking):
        if isinstance(head, MixtureHead | FlowHead):
            raise InvalidSetting(
                f"masking.strategy={masking.partition(' ')[0]} leaves no patch as it was, and a {head.name} is drawn "
                "given such patches; use another objective, or hide patches"
            )
        if not 0 < ratio < 1:
            raise InvalidSetting(f"masking.ratio={ratio} does not hide a share of the variance; give one above 0")
    patches = (size[0] // p) * (size[1] // p)
    if not corrupts(masking) and (not 0 <= ratio < 1 or not 0 < visible_count(patches, ratio) < patches):
        raise InvalidSetting(
            f"masking.ratio={ratio} with {patches} patches does not leave at least one visible and one hidden"
        )
    return MaskedAutoencoder(image_size=size, decoder_heads=decoder_width // DECODER_HEAD_WIDTH, **made)


__all__ = ["SIZES", "MaskedAutoencoder", "create_model"]
