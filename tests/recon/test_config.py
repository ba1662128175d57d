"""Settings: typed, documented, and checked for what types cannot say."""

import math
from functools import reduce

import pytest
from omegaconf import OmegaConf

from losses import TERMS, InvalidSetting
from recon.config import Settings, check, every_setting

SCHEMA = OmegaConf.structured(Settings)


def settings(*words: str) -> Settings:
    return OmegaConf.to_object(OmegaConf.merge(SCHEMA, OmegaConf.from_dotlist(list(words))))


def test_every_setting_is_documented_in_one_line():
    for s in every_setting():
        assert s.doc and len(s.doc.splitlines()) == 1, s.key


def test_keys_are_unique_and_lead_to_their_defaults():
    found = list(every_setting())
    assert len({s.key for s in found}) == len(found)
    tree = OmegaConf.structured(Settings)
    for s in found:
        assert OmegaConf.select(tree, s.key) == s.default


def test_every_term_s_options_are_settings():
    keys = {s.key for s in every_setting()}
    for name, term in TERMS.items():
        assert {f"losses.{name}.{field}" for field in term.Options.__dataclass_fields__} <= keys


def test_the_vocabulary_of_the_design_is_there():
    keys = {s.key for s in every_setting()}
    assert keys >= {
        *("loss", "losses.over", "data.name", "data.root", "data.image_size", "model.name", "model.patch_size"),
        *("model.decoder_depth", "model.decoder_width", "model.mask_tokens", "masking.strategy", "masking.ratio"),
        *("train.steps", "train.epochs", "train.checkpoint_every", "batch.size", "batch.per_device"),
        *("optim.base_lr", "seed", "device", "precision", "compile", "name", "resume"),
    }


def test_the_defaults_pass():
    check(Settings())


WRONG = [
    "train.steps=0",
    "train.steps=-1",
    "train.checkpoint_every=0",
    "train.log_every=0",
    "train.picture_every=-5",
    "batch.size=0",
    "batch.per_device=0",
    "batch.per_device=-8",
    "model.patch_size=0",
    "model.decoder_depth=0",
    "optim.base_lr=0",
    "optim.base_lr=.nan",
    "optim.base_lr=.inf",
    "optim.clip=0",
    "optim.weight_decay=-0.1",
    "optim.weight_decay=.nan",
    "optim.warmup=1.5",
    "optim.warmup=-0.1",
    "optim.warmup=.nan",
    "data.max_unreadable=2",
    "data.workers=-1",
    "data.augment=gpu",
    "optim.betas=[0.9]",
    "data.crop_scale=[0.5]",
    "data.crop_scale=[0.9,0.5]",
    "masking.block=0",
    "optim.betas=[0.9,1.0]",
    "optim.betas=[0.9,0.95,0.99]",
    "data.image_size=0",
    "data.image_size=-64",
    "data.image_size=64.5",
    "data.image_size=true",
    "data.image_size=null",
    "data.image_size=big",
    "data.image_size=[64]",
    "data.image_size=[64,64,3]",
    "data.image_size=[64,big]",
    "seed=99999999999999999999",
]


def test_a_value_out_of_range_is_named_in_one_line():
    for word in WRONG:
        with pytest.raises(InvalidSetting) as error:
            check(settings(word))
        assert word.partition("=")[0] in str(error.value) and len(str(error.value).splitlines()) == 1, word


def test_every_number_has_limits_on_both_sides_or_is_finite():
    """What types cannot say is declared beside each default; 2^63 is too much for all but the seed."""
    without = {"optim.base_lr", "optim.weight_decay", "optim.clip", "seed"}
    for s in every_setting():
        number = s.default[0] if isinstance(s.default, list) and s.default else s.default
        if type(number) in (int, float) or s.key in SIZES:
            for value in (math.inf, -math.inf, math.nan, -1, *([2**63] if s.key not in without else [])):
                with pytest.raises(InvalidSetting, match=rf"^{s.key}="):
                    check(with_value(s.key, [value, 0.9] if isinstance(s.default, list) else value))


SIZES = {"model.patch_size", "model.decoder_width", "model.decoder_depth", "batch.per_device", "losses.perceptual.crop"}


def with_value(key: str, value: object) -> Settings:
    made = Settings()
    *nodes, leaf = key.split(".")
    setattr(reduce(getattr, nodes, made), leaf, value)
    return made
