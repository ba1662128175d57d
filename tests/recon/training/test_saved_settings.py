"""Settings as a run saves them: by key and as a tree, and which may change when the run is resumed."""

from functools import reduce

import pytest

from losses import InvalidSetting
from recon.config import Settings, every_setting
from recon.saved_settings import RESUME_OVERRIDES, flat, flattened, nested, resumed_settings, settings_from
from tests.recon.training.conftest import settings

KEYS = [s.key for s in every_setting()]


def another(key: str) -> object:
    """A value of the same type that is not the default."""
    default = next(s.default for s in every_setting() if s.key == key)
    match default:
        case bool():
            return not default
        case None:
            return "other" if key in ("name", "data.root", "init_decoder", "losses.lpips.weights") else 32
        case int() | float():
            return default * 2 + 1
        case list():
            return [*default[1:], *default[:1]] if default else [1.0]
        case _:
            return default + "x"


SAVED = flat(settings("loss=mse", "name=mine")[0])


def changed(key: str) -> dict:
    return SAVED | {"loss": "mse", "name": "mine", "resume": True} | {key: another(key)}


def settings_of(values: dict) -> Settings:
    """Settings from values by key, of any type."""
    made = Settings()
    for key, value in values.items():
        *nodes, leaf = key.split(".")
        setattr(reduce(getattr, nodes, made), leaf, value)
    return made


RESUMED = settings_of(SAVED | {"resume": True})


def test_each_setting_that_differs_is_refused_by_name_if_it_was_given_and_taken_if_it_is_harmless():
    for key in KEYS:
        now, given = settings_of(changed(key)), frozenset({key})
        if key in RESUME_OVERRIDES:
            assert resumed_settings(SAVED, now, given) == SAVED | {key: another(key)}, key
            continue
        with pytest.raises(InvalidSetting) as error:
            resumed_settings(SAVED, now, given | {"name", "resume"})
        assert f"{key}=" in str(error.value) and len(str(error.value).splitlines()) == 1, key
        assert " loss=" not in str(error.value) or key == "loss", key


def test_each_setting_that_was_not_given_is_the_saved_run_s_and_one_given_again_is_no_difference():
    for key in KEYS:
        saved = changed(key)
        if key not in RESUME_OVERRIDES:
            assert resumed_settings(saved, RESUMED, frozenset()) == saved, key
        assert resumed_settings(saved, settings_of(saved), frozenset({key})) == saved, key


def test_a_whole_node_given_again_is_looked_into():
    now = settings_from(changed("optim.base_lr"))
    with pytest.raises(InvalidSetting, match=r"optim\.base_lr="):
        resumed_settings(SAVED, now, frozenset({"optim"}))


def test_a_preset_gives_what_it_changes():
    now = settings_from(changed("optim.base_lr"))
    with pytest.raises(InvalidSetting, match=r"optim\.base_lr="):
        resumed_settings(SAVED, now, frozenset({"preset"}))


def test_harmless_is_what_touches_neither_the_weights_nor_what_they_mean():
    where = {"name", "resume", "device", "shard", "data.root", "data.workers", "data.download", "data.max_unreadable"}
    where |= {"log", "train.online_probe"}
    to_the_bit = {"model.gradient_checkpointing", "losses.flow.steps"}  # of a draw, which teaches nothing
    assert where | to_the_bit | {f"train.{what}_every" for what in ("checkpoint", "log", "picture")} == RESUME_OVERRIDES
    assert set(KEYS) >= RESUME_OVERRIDES


def test_settings_by_key_and_as_a_tree_are_the_same():
    values = flat(settings("data.image_size=[16,32]", "batch.size=8")[0])
    assert flat(settings_from(values)) == values and flattened(nested(values)) == values
