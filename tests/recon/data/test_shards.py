"""Shards: each to one worker of one rank, every sample equally often, entered anywhere."""

import io
import json
import os
import tarfile
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from losses import InvalidSetting
from recon.data import batches, create_dataset, shards
from recon.data.source import UnreadableImage
from tests.recon.data.conftest import picture, same, samples, write_shard

pytest.importorskip("webdataset")

UNEQUAL = (3, 1, 4, 2, 5)


def birds(place: Path, lengths=UNEQUAL, info=False, unreadable=()):
    """Shards of samples whose labels are 0, 1, 2, ... throughout; with timm's _info.json, where asked."""
    folder, first = place / "birds", 0
    for number, length in enumerate(lengths):
        write_shard(folder / f"train-{number}.tar", range(first, first + length), unreadable)
        first += length
    if info:
        names = [f"train-{number}.tar" for number in range(len(lengths))]
        entry = {"name": "train", "num_samples": first, "filenames": names, "shard_lengths": list(lengths)}
        (folder / "_info.json").write_text(json.dumps({"splits": {"train": entry}}))
    return opened(place)


def opened(place: Path):
    """Anew, as after a kill: what was learnt of lengths is forgotten."""
    return create_dataset("wds/birds", "train", root=place)


def outcomes(source, number, reader=0, readers=1, seed=0, start=0):
    """Labels of a reader's samples, and why those are unreadable that are."""
    return [outcome(read) for read in islice(source.training_samples(reader, readers, seed, start), number)]


def outcome(read):
    try:
        return read()[1]
    except UnreadableImage as reason:
        return str(reason)


def test_the_workers_of_a_loader_make_the_batches_that_are_made_in_turn(tmp_path):
    source, layout = birds(tmp_path, unreadable=(2, 3)), {"batch": 2, "rank": 1, "world": 2, "start": 12}
    assert same(samples(source, 24, workers=2, **layout), samples(source, 24, workers=2, one_process=True, **layout))


def test_each_pass_shows_every_sample_once_and_each_shard_to_one_worker_of_one_rank(tmp_path):
    source = birds(tmp_path, lengths=[4] * 6)
    for ranks, workers in [(1, 0), (1, 1), (1, 2), (2, 0), (3, 2), (6, 1)]:
        turns, layout = max(workers, 1), {"batch": 2, "workers": workers, "world": ranks, "one_process": True}
        got = [samples(source, 48 // ranks, rank=rank, **layout)[1].reshape(2, -1, turns, 2) for rank in range(ranks)]
        orders = set()
        for number in (0, 1):
            read = [of_rank[number, :, turn].flatten() for of_rank in got for turn in range(turns)]
            shards_read = sorted(shard for labels in read for shard in {label // 4 for label in labels.tolist()})
            assert sorted(torch.cat(read).tolist()) == list(range(24)), (ranks, workers)
            assert shards_read == list(range(6)), (ranks, workers)
            orders.add(tuple(torch.cat(read).tolist()))
        assert len(orders) == 2 and tuple(range(24)) not in orders, (ranks, workers)


@pytest.mark.parametrize("readers", [1, 2, 3, 5])
def test_of_unequal_shards_too_every_sample_comes_equally_often(tmp_path, readers):
    """After as many passes as there are readers."""
    source = birds(tmp_path)
    read = [outcomes(source, 2 * 15, reader, readers) for reader in range(readers)]
    for passes in (slice(15), slice(15, 30)):
        assert Counter(label for labels in read for label in labels[passes]) == dict.fromkeys(range(15), readers)


def test_the_order_depends_on_the_seed_alone(tmp_path):
    source = birds(tmp_path)
    assert outcomes(source, 40) == outcomes(source, 40) == outcomes(opened(tmp_path), 40)
    assert outcomes(source, 15) != outcomes(source, 15, seed=1)


def test_a_buffer_smaller_than_a_shard_shuffles_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BUFFER", 3)
    source = birds(tmp_path, lengths=[20, 12])
    first, second = outcomes(source, 64)[:32], outcomes(source, 64)[32:]
    assert sorted(first) == sorted(second) == list(range(32)) and first != second
    assert outcomes(opened(tmp_path), 20, start=44) == second[12:]


LAYOUTS = [(1, 0), (1, 1), (1, 2), (2, 2), (2, 0)]  # ranks, workers


@pytest.mark.parametrize("info", [False, True], ids=["counted", "told"])
@pytest.mark.parametrize("ranks, workers", LAYOUTS)
def test_a_run_entered_at_any_batch_goes_on_as_the_whole_run_does(tmp_path, info, ranks, workers):
    source = birds(tmp_path, info=info, unreadable=(2, 3, 11))
    for rank in range(ranks):
        layout = {"workers": workers, "rank": rank, "world": ranks, "batch": 2, "one_process": True}
        whole = samples(source, 2 * (24 + 3), **layout)
        for first in (1, 2, 3, 9, 24):
            late = samples(opened(tmp_path), 6, start=first * 2 * ranks, **layout)
            assert all(torch.equal(a[2 * first :][:6], b) for a, b in zip(whole[:3], late[:3], strict=True)), first
            assert set(late[3]) <= set(whole[3])


def test_ten_batches_hold_what_five_of_twice_the_size_do(tmp_path):
    source = birds(tmp_path)
    assert same(samples(source, 20, batch=2), samples(source, 20, batch=4, workers=1))


def torn(place: Path) -> None:
    """Cuts a shard short within its third picture, and empties another; a third cannot be opened."""
    folder = place / "birds"
    with tarfile.open(folder / "train-4.tar") as shard:
        cut = shard.getmember("0002.png").offset_data + 100
    (folder / "train-4.tar").write_bytes((folder / "train-4.tar").read_bytes()[:cut])
    write_shard(folder / "train-1.tar", [])
    (folder / "train-3.tar").unlink()
    (folder / "train-3.tar").mkdir()


@pytest.mark.parametrize("info", [False, True], ids=["counted", "told"])
def test_what_cannot_be_read_keeps_its_place_in_the_order(tmp_path, info):
    """Entered anywhere, also where the images before it are not read."""
    birds(tmp_path, info=info, unreadable=(4,))
    source = opened(tmp_path)
    torn(tmp_path)
    whole = outcomes(source, 60)
    lines = {outcome for outcome in whole if isinstance(outcome, str)}
    for start in range(45):
        assert outcomes(opened(tmp_path), 1, start=start) == whole[start : start + 1]
    assert {label for label in whole if isinstance(label, int)} == {0, 1, 2, 5, 6, 7, 10, 11}
    assert any(line.startswith("wds/birds/train: train-2.tar/0000: ") for line in lines)
    assert any(line.startswith("wds/birds/train: train-4.tar: unexpected end of data") for line in lines)
    assert any("train-3.tar" in line for line in lines) and all(len(line.splitlines()) == 1 for line in lines)
    there = 15 if info else 3 + 1 + 4 + 1 + 3  # a shard's end that is missing has one place, its number being unknown
    assert Counter(map(str, whole[:there])) == Counter(map(str, whole[there : 2 * there]))


def test_an_unreadable_sample_is_named_and_the_next_readable_one_takes_its_place(tmp_path):
    source = birds(tmp_path, unreadable=(2, 7, 8))
    order = outcomes(source, 30)
    expected = [next(o for o in order[i:] if isinstance(o, int)) for i in range(24)]
    _, labels, _, unreadable = samples(source, 24)
    assert labels.tolist() == expected
    assert [line.split(": ")[1] for line in dict.fromkeys(unreadable)] == list(
        dict.fromkeys(o.split(": ")[1] for o in order[:24] if isinstance(o, str))
    )


def test_samples_before_the_entrance_are_neither_decoded_nor_read(tmp_path, monkeypatch):
    birds(tmp_path, lengths=[10, 10])
    read, decoded = [], []
    read_part, read_rgb = shards._read_part, shards.read_rgb
    monkeypatch.setattr(shards, "_read_part", lambda *part: read.append(part) or read_part(*part))
    monkeypatch.setattr(shards, "read_rgb", lambda file: decoded.append(file) or read_rgb(file))
    outcomes(opened(tmp_path), 3, start=55)
    assert len(decoded) == 3 and len(read) == 6  # pictures and classes


@pytest.mark.parametrize("info", [False, True], ids=["counted", "told"])
def test_passes_over_shards_of_known_length_are_not_gone_through(tmp_path, monkeypatch, info):
    birds(tmp_path, info=info)
    begun, files = [], shards._files
    monkeypatch.setattr(shards, "_files", lambda shard, locate: begun.append(shard) or files(shard, locate))
    outcomes(opened(tmp_path), 1, start=1000 * 15)
    assert len(begun) == len(UNEQUAL) * (1 if info else 2)


def test_a_shard_without_the_samples_it_is_said_to_have_says_so(tmp_path):
    birds(tmp_path, info=True)
    write_shard(tmp_path / "birds" / "train-2.tar", [4, 5])  # of four
    whole = outcomes(opened(tmp_path), 15)
    assert Counter(whole)["wds/birds/train: train-2.tar: fewer than the 4 samples of _info.json"] == 2
    write_shard(tmp_path / "birds" / "train-2.tar", range(4, 14))
    assert Counter(outcomes(opened(tmp_path), 15)) == Counter([*range(8), 8, 9, *range(10, 15)])


def test_a_picture_may_have_any_ending_of_a_folder_s(tmp_path):
    write_shard(tmp_path / "birds" / "train-0.tar", [3])
    with tarfile.open(tmp_path / "birds" / "train-0.tar") as old, tarfile.open(tmp_path / "new.tar", "w") as new:
        content = old.extractfile("0000.png").read()
        for number, ending in enumerate(("jpeg", "JPG", "gif", "tiff", "txt")):
            entry = tarfile.TarInfo(f"{number}\n.{ending}")
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    (tmp_path / "new.tar").replace(tmp_path / "birds" / "train-0.tar")
    source = opened(tmp_path)
    assert [image.tobytes() for image, _ in source] == [picture(0).tobytes()] * 4
    [line] = [line for line in outcomes(source, 5) if isinstance(line, str)]
    assert line.startswith("wds/birds/train: train-0.tar/4\\n: no image (.jpg, .jpeg,") and line.endswith(" among .txt")


def test_a_shard_that_is_no_regular_file_is_not_waited_for(tmp_path):
    birds(tmp_path, lengths=[2])
    os.mkfifo(tmp_path / "birds" / "train-1.tar")
    assert Counter(outcomes(opened(tmp_path), 3))["wds/birds/train: train-1.tar: it is no regular file"] == 1


def test_pictures_without_a_class_are_read_too(tmp_path):
    write_shard(tmp_path / "birds" / "train-0.tar", [3])
    with tarfile.open(tmp_path / "birds" / "train-0.tar") as old, tarfile.open(tmp_path / "only.tar", "w") as new:
        new.addfile(old.getmember("0000.png"), old.extractfile("0000.png"))
    (tmp_path / "only.tar").replace(tmp_path / "birds" / "train-0.tar")
    [(image, label)] = list(opened(tmp_path))
    assert label == -1 and image.tobytes() == picture(0).tobytes()


@pytest.mark.parametrize(
    "ranks, workers, said",
    [
        (6, 0, r"^wds/birds/train has 5 shards, fewer than the 6 processes: start 5 at most, or write .* more shards$"),
        (2, 3, r"^wds/birds/train has 5 shards, fewer than the 2 processes x 3 workers: set data.workers=2, or .*$"),
        (1, 6, r"^wds/birds/train has 5 shards, fewer than the 1 process x 6 workers: set data.workers=5, or .*$"),
    ],
)
def test_more_readers_than_shards_is_a_one_line_error(tmp_path, ranks, workers, said):
    with pytest.raises(InvalidSetting, match=said):
        samples(birds(tmp_path), 2, workers=workers, world=ranks)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_without_a_readable_picture_are_a_one_line_error(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(batches, "MAX_UNREADABLE_IN_A_ROW", 50)
    with pytest.raises(InvalidSetting, match=r"^50 samples of wds/birds/train in a row cannot be read; .*$"):
        samples(birds(tmp_path, unreadable=range(15)), 4, workers=workers)


def test_repeats_read_once_and_are_entered_anywhere(tmp_path):
    """Each of the reader's samples so many times in a row, whether or not a batch begins with a new one."""
    once, thrice = (samples(birds(tmp_path), number, repeats=repeats) for number, repeats in ((16, 1), (48, 3)))
    assert torch.equal(thrice[1], once[1].repeat_interleave(3))
    assert len({tuple(noise.tolist()) for noise in thrice[2]}) == 48
    for start in (4, 12, 20):
        late = samples(birds(tmp_path), 16, start=start, repeats=3)
        assert all(torch.equal(a[start : start + 16], b) for a, b in zip(thrice[:3], late[:3], strict=True))
