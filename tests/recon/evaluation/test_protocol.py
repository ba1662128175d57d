"""Images and masks are the same for every run, whatever the batch."""

import hashlib
from dataclasses import replace

import pytest
import torch

from recon.data import create_dataset
from recon.evaluation.protocol import Protocol, batches

PROTOCOL = Protocol("photos", "val", 10, (16, 16), 4, "random", 0.75, seed=0)


@pytest.fixture(scope="module")
def source():
    return create_dataset("photos", "val")


def digest(protocol: Protocol, source, size: int) -> str:
    return hashlib.sha256(b"".join(batch.content() for batch in batches(protocol, source, size))).hexdigest()


def test_images_and_masks_do_not_depend_on_the_batch(source):
    assert digest(PROTOCOL, source, 3) == digest(PROTOCOL, source, 10)
    names = [name for batch in batches(PROTOCOL, source, 3) for name in batch.names]
    assert len(names) == len(set(names)) == 10


def test_an_image_keeps_its_mask_among_other_images(source):
    few, many = (
        {name: mask for b in batches(replace(PROTOCOL, images=n), source, 4) for name, mask in zip(b.names, b.mask)}  # noqa: B905
        for n in (10, 20)
    )
    common = few.keys() & many.keys()
    assert common and all(torch.equal(few[name], many[name]) for name in common)


@pytest.mark.parametrize("change", [{"seed": 1}, {"images": 9}, {"ratio": 0.5}, {"masking": "block"}])
def test_another_protocol_has_another_digest(source, change):
    assert digest(PROTOCOL, source, 5) != digest(replace(PROTOCOL, **change), source, 5)


def test_a_changed_pixel_changes_the_digest(source):
    (batch,) = batches(replace(PROTOCOL, images=2), source, 2)
    found = []
    for step in (0, 1 / 255):
        changed = batch.images.clone()
        changed[1, 0, 0, 0] = (changed[1, 0, 0, 0] + step) % 1
        found.append(replace(batch, images=changed).content())
    assert found[0] != found[1]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 0.9])
def test_another_ratio_hides_what_a_protocol_of_that_ratio_hides(source, ratio):
    (batch,) = batches(replace(PROTOCOL, ratio=ratio), source, 10)
    assert (batch.mask.sum(1) == 16 - int(16 * (1 - ratio))).all()
    assert torch.equal(PROTOCOL.masks(batch.names, ratio), batch.mask)


def test_what_cannot_be_brought_together_is_named():
    other = replace(PROTOCOL, seed=5, images=3, patch_size=8, ratio=0.5)
    assert PROTOCOL.differing(other) == {"patch_size": (4, 8), "ratio": (0.75, 0.5)}
    assert not PROTOCOL.differing(replace(PROTOCOL, seed=5, images=3))
