"""Training from shards: killed and resumed, shared by too many, and partly unreadable."""

import json

import pytest

from losses import InvalidSetting
from recon.run_folder import CHECKPOINT, read_checkpoint
from tests.recon.data.conftest import write_shard
from tests.recon.training.conftest import (
    SMALL,
    as_killed_after_its_first_checkpoint,
    contents,
    differences,
    lines_of,
    pretrain,
    resumed,
    state_of,
    timeless,
)

pytest.importorskip("webdataset")


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Where wds/birds is: 4 shards of 25 samples to train on, one of which cannot be read, and 3 held out."""
    place = tmp_path_factory.mktemp("shards")
    for number in range(4):
        write_shard(place / "birds" / f"train-{number}.tar", range(25 * number, 25 * (number + 1)), unreadable=(60,))
    write_shard(place / "birds" / "val-0.tar", range(3))
    return place


def words(birds, *more: str) -> list[str]:
    return [*SMALL, "data.name=wds/birds", f"data.root={birds}", "loss=mse", *more]


@pytest.fixture(scope="module")
def straight_and_resumed(tmp_path_factory, birds):
    """Two runs of 30 steps of 8, 2.4 passes, by two workers; the second was killed after its 15th."""
    place = tmp_path_factory.mktemp("runs")
    steps = ["train.steps=30", "train.checkpoint_every=15", "data.workers=2", "name=straight"]
    assert pretrain(place, *words(birds, *steps)) == 0
    straight = place / "runs" / "straight"
    as_killed_after_its_first_checkpoint(straight, "killed")
    as_killed_after_its_first_checkpoint(straight, "other")
    return straight, resumed(place, "killed")


def test_a_killed_run_resumes_to_the_same_bits(straight_and_resumed):
    straight, again = straight_and_resumed
    assert state_of(straight)["stream"] == {"shards": 4, "ranks": 1, "workers": 2}
    assert differences(state_of(straight), state_of(again)) == []
    assert timeless(lines_of(straight)) == timeless(lines_of(again))


def test_an_unreadable_sample_is_named_and_counted(straight_and_resumed):
    assert [line.partition(": ")[2].partition(":")[0] for line in state_of(straight_and_resumed[0])["unreadable"]] == [
        "train-2.tar/0010"
    ]


def test_with_other_workers_a_run_goes_on_and_says_what_is_not_the_same(straight_and_resumed, capsys):
    straight, _ = straight_and_resumed
    again = resumed(straight.parents[1], "other", "data.workers=0")
    out = capsys.readouterr().out
    assert "1 x 1 processes and workers read the shards, before it was 1 x 2" in out and out.count("warning") == 1
    assert read_checkpoint(again / CHECKPOINT)["step"] == 30
    assert "/cls_token" in differences(state_of(straight)["model"], state_of(again)["model"])


def test_a_run_does_not_go_on_with_other_shards(straight_and_resumed, tmp_path, birds):
    straight, _ = straight_and_resumed
    for path in sorted((birds / "birds").glob("*.tar"))[1:]:
        (tmp_path / "birds").mkdir(exist_ok=True)
        (tmp_path / "birds" / path.name).write_bytes(path.read_bytes())
    before = contents(straight)
    with pytest.raises(InvalidSetting, match=r"had 4 shards, now 3; set data\.root"):
        resumed(straight.parents[1], "straight", f"data.root={tmp_path}")
    assert contents(straight) == before


def test_more_workers_than_shards_is_told_before_anything_is_written(tmp_path, birds):
    with pytest.raises(InvalidSetting, match=r"^wds/birds/train has 4 shards, .* set data\.workers=4, or .*$"):
        pretrain(tmp_path, *words(birds, "data.workers=5", "train.steps=2"))
    assert list(tmp_path.iterdir()) == []


def tell(place, splits: dict[str, dict[str, int]]) -> None:
    """timm's _info.json, of split -> shard -> how many samples it has."""
    entries = {
        split: {
            "name": split,
            "num_samples": sum(lengths.values()),
            "filenames": list(lengths),
            "shard_lengths": list(lengths.values()),
        }
        for split, lengths in splits.items()
    }
    (place / "birds" / "_info.json").write_text(json.dumps({"splits": entries}))


def test_epochs_are_passes_over_shards_whose_lengths_are_told(tmp_path):
    splits = {"train": {"train-0.tar": 6, "train-1.tar": 14}, "validation": {"val-0.tar": 3}}
    for shard, length in (splits["train"] | splits["validation"]).items():
        write_shard(tmp_path / "birds" / shard, range(length))
    epochs = words(tmp_path, "train.steps=null", "train.epochs=2.4", "name=told")
    with pytest.raises(InvalidSetting, match=r"^data=wds/birds: no _info\.json tells every shard's length; give tr"):
        pretrain(tmp_path, *epochs)
    tell(tmp_path, splits)
    assert pretrain(tmp_path, *epochs) == 0
    told = tmp_path / "runs" / "told"
    assert state_of(told)["step"] == 6  # 2.4 * 20 / 8
    as_killed_after_its_first_checkpoint(told, "killed")
    tell(tmp_path, splits | {"train": {"train-0.tar": 6, "train-1.tar": 13}})
    with pytest.raises(InvalidSetting, match="its training data had 20 images, now 19"):
        resumed(tmp_path, "killed")
    (tmp_path / "birds" / "_info.json").unlink()  # what is known of it still is
    assert state_of(resumed(tmp_path, "killed"))["step"] == 6


def test_more_unreadable_samples_than_the_set_share_end_the_run(tmp_path):
    for number in range(2):
        write_shard(tmp_path / "birds" / f"train-{number}.tar", range(20), unreadable=range(3, 15))
    write_shard(tmp_path / "birds" / "val-0.tar", range(3))
    with pytest.raises(InvalidSetting, match=r"^1. of the first 1000 samples cannot be read, .*max_unreadable=0.01"):
        pretrain(tmp_path, *words(tmp_path, "train.steps=20", "name=strict"))
    assert read_checkpoint(tmp_path / "runs" / "strict" / CHECKPOINT)["step"] == 0
