"""Settings: typed, documented, and checked for what types cannot say."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from losses import TERMS, InvalidSetting
from recon.config import Settings, check, every_setting, image_size, per_device_batch


def settings(*words: str) -> Settings:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(list(words))))


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


@pytest.mark.parametrize(
    "word",
    [
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
    ],
)
def test_a_value_out_of_range_is_named_in_one_line(word):
    with pytest.raises(InvalidSetting) as error:
        check(settings(word))
    assert word.partition("=")[0] in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("word", ["batch.per_device=3", "batch.per_device=128"])
def test_micro_batches_must_fill_the_batch(word):
    with pytest.raises(InvalidSetting, match=r"^batch\.size=32 is not a multiple of batch\.per_device="):
        check(settings("batch.size=32", word))


@pytest.mark.parametrize("words", [["train.steps=3"], ["train.epochs=null"]])
def test_the_length_of_a_run_is_given_once(words):
    with pytest.raises(InvalidSetting, match=r"train\.steps=N or train\.epochs=N"):
        check(settings(*words))


@pytest.mark.parametrize("epochs", ["0", "-1", ".inf", ".nan"])
def test_epochs_are_a_positive_number(epochs):
    with pytest.raises(InvalidSetting, match=r"train\.epochs"):
        check(settings("train.steps=null", f"train.epochs={epochs}"))


@pytest.mark.parametrize("word", ["train.steps=many", "resume=perhaps", "optim.betas=null", "model.patch_size=8.5"])
def test_a_value_of_another_type_is_refused_where_it_is_given(word):
    with pytest.raises(OmegaConfBaseException):
        settings(word)


def test_image_sizes_are_square_or_height_and_width():
    assert image_size(settings("data.image_size=48")) == (48, 48)
    assert image_size(settings("data.image_size=[16,32]")) == (16, 32)


def test_a_batch_is_one_forward_pass_unless_it_is_said():
    assert per_device_batch(settings("batch.size=48")) == settings("batch.size=48").batch.size == 48
    assert per_device_batch(settings("batch.size=48", "batch.per_device=16")) == 16
