"""Crops resized on the device: PIL's resize, and a sample is the same in any batch."""

from itertools import islice

import numpy as np
import pytest
import torch

from recon.data import create_dataset, training_batches
from recon.data.crops import UNIT, weights
from tests.recon.data.conftest import Pictures, masking, write_shard


def images(source, number, *, batch=4, start=0, size=(16, 12), on_device=True, workers=0):
    """The first images as the model gets them, in grey levels."""
    batches = training_batches(
        source,
        image_size=size,
        batch=batch,
        start=start,
        seed=0,
        workers=workers,
        masking=masking,
        on_device=on_device,
    )
    cpu = torch.device("cpu")
    return torch.cat([b.images_on(cpu) for b in islice(batches, number // batch)]) * 255


@pytest.mark.parametrize("size", [(16, 12), (40, 30), (96, 96)], ids=["smaller", "about as large", "larger"])
def test_it_is_the_loader_s_resize_but_for_the_last_grey_level(size):
    ours, theirs = (images(create_dataset("photos", "train"), 64, size=size, on_device=way) for way in (True, False))
    difference = (ours - theirs).abs()
    assert difference.max() < 2.01 and (difference > 0.5).float().mean() < 0.02


@pytest.fixture(params=["indexed", "streamed"])
def source(request, tmp_path):
    if request.param == "indexed":
        return Pictures(10, unreadable=(3, 4))
    pytest.importorskip("webdataset")
    write_shard(tmp_path / "birds" / "train-0.tar", range(10))
    return create_dataset("wds/birds", "train", root=tmp_path)


def test_a_sample_is_the_same_to_the_bit_in_any_batch(source):
    whole = images(source, 48, batch=16)
    assert torch.equal(images(source, 48, batch=1), whole)
    assert torch.equal(images(source, 24, start=24, workers=1), whole[24:])


def test_native_images_are_cut_and_not_resampled():
    source = create_dataset("gaussian_field", "val")
    assert torch.equal(*(images(source, 16, on_device=way) for way in (True, False)))


@pytest.mark.parametrize("outputs", [1, 7, 64, 224])
def test_weights_are_exact_and_sum_to_one(outputs):
    inputs = torch.tensor([1, 2, 13, 64, 160, 500])
    w = weights(inputs, 512, outputs)
    assert torch.equal(w.sum(-1), torch.ones(len(inputs), outputs))
    assert torch.equal(w * UNIT, (w * UNIT).round())
    for side, of_side in zip(inputs, w, strict=True):
        assert not of_side[:, side:].any()
        assert torch.equal(weights(side[None], int(side), outputs)[0], of_side[:, :side])


def test_plain_interpolation_would_alias_where_this_does_not():
    """A fine checkerboard becomes grey."""
    board = torch.from_numpy(np.indices((96, 96)).sum(0) % 2 * 255.0).float()
    w = weights(torch.tensor([96]), 96, 24)[0]
    assert ((w @ board @ w.T) - 127.5).abs().max() < 3
