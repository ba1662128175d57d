"""The images that runs are evaluated on."""

import pytest
import torch

from losses import InvalidSetting
from recon.data import create_dataset, held_out_images
from tests.recon.data.conftest import Pictures, masking


def test_images_are_floats_between_0_and_1_spread_evenly():
    images, noise, names = held_out_images(Pictures(100), (16, 24), 10, 0, masking)
    assert images.shape == (10, 3, 16, 24) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1 and images.max() > 0.5
    assert noise.shape == (10, 16)
    assert names == [f"picture {i}" for i in range(0, 100, 10)]


def test_noise_depends_on_the_seed_and_the_image_alone():
    _, few, few_names = held_out_images(Pictures(100), (16, 16), 5, 0, masking)
    _, many, many_names = held_out_images(Pictures(100, unreadable=(7,)), (16, 16), 99, 0, masking)
    _, other, _ = held_out_images(Pictures(100), (16, 16), 5, 1, masking)
    of = dict(zip(many_names, many, strict=True))
    assert all(torch.equal(noise, of[name]) for name, noise in zip(few_names, few, strict=True))
    assert len(many.unique(dim=0)) == 99
    assert not torch.equal(few, other)


def test_unreadable_images_are_passed_over():
    _, _, names = held_out_images(Pictures(10, unreadable=(0, 5)), (16, 16), 5, 0, masking)
    assert len(set(names)) == 5 and not {"picture 0", "picture 5"} & set(names)


def test_a_small_source_gives_all_it_has():
    assert len(held_out_images(Pictures(3), (16, 16), 8, 0, masking)[2]) == 3


def test_a_source_without_a_readable_image_is_an_error():
    with pytest.raises(InvalidSetting, match="none of the held-out images can be read"):
        held_out_images(Pictures(2, unreadable=(0, 1)), (16, 16), 2, 0, masking)


def test_a_folder_that_moved_keeps_its_masks(tmp_path):
    noises = []
    for home in (tmp_path / "here", tmp_path / "there"):
        home.mkdir()
        Pictures(1).read(0)[0].save(home / "a.png")
        noises.append(held_out_images(create_dataset("folder", "val", root=home), (16, 16), 1, 0, masking)[1])
    assert torch.equal(*noises)
