"""Features on disk: made once, never mistaken for others."""

import re

import pytest
import torch

from losses import InvalidSetting
from recon.probing.features import cached, key_of

FACTS = {"network": "a", "data": "b", "layers": [1, 2]}


class Maker:
    def __init__(self, value: float):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return {"train/mean/1": torch.full((3, 2), self.value)}


def test_features_are_made_once_and_come_back_to_the_bit(tmp_path):
    maker = Maker(1 / 3)
    first, second = cached(tmp_path, FACTS, maker), cached(tmp_path, FACTS, maker)
    assert maker.calls == 1
    assert torch.equal(first["train/mean/1"], second["train/mean/1"])


@pytest.mark.parametrize("fact", list(FACTS))
def test_every_fact_is_part_of_the_key(tmp_path, fact):
    cached(tmp_path, FACTS, Maker(1.0))
    found = cached(tmp_path, FACTS | {fact: "another"}, Maker(2.0))
    assert found["train/mean/1"].unique().tolist() == [2.0]


def test_a_file_with_the_features_of_another_key_is_refused_and_left_alone(tmp_path):
    cached(tmp_path, FACTS, Maker(1.0))
    (file,) = tmp_path.iterdir()
    other = FACTS | {"network": "another"}
    taken = file.rename(tmp_path / f"{key_of(other)[:16]}.safetensors")
    content = taken.read_bytes()
    maker = Maker(2.0)
    with pytest.raises(InvalidSetting, match=re.escape(f"{taken} holds the features of another network or data")):
        cached(tmp_path, other, maker)
    assert taken.read_bytes() == content and maker.calls == 0


@pytest.mark.parametrize("damage", [lambda b: b[:40], lambda b: b"", lambda b: b[:-3]])
def test_a_damaged_file_is_named_and_left_alone(tmp_path, damage):
    cached(tmp_path, FACTS, Maker(1.0))
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    before = file.read_bytes()
    with pytest.raises(InvalidSetting, match=re.escape(f"{file} is damaged")):
        cached(tmp_path, FACTS, Maker(2.0))
    assert file.read_bytes() == before


def test_nothing_is_left_where_making_fails(tmp_path):
    def failing():
        raise InvalidSetting("torn")

    with pytest.raises(InvalidSetting, match="torn"):
        cached(tmp_path / "features", FACTS, failing)
    assert not (tmp_path / "features").exists()
