"""The law of exact resumption, what happens to images that cannot be read, and the images that are held out."""

import multiprocessing
import random
import signal

import numpy as np
import pytest
import torch

from losses import InvalidSetting
from recon.data import create_dataset, held_out_images, training_batches
from recon.data.batches import ignore_signals
from tests.recon.data.conftest import Pictures, masking, same, samples


def test_a_batch_has_the_promised_shapes_and_types():
    images, labels, noise, unreadable = samples(Pictures(5), 4)
    assert images.shape == (4, 3, 16, 16) and images.dtype == torch.uint8
    assert labels.shape == (4,) and labels.dtype == torch.int64
    assert noise.shape == (4, 16) and noise.dtype == torch.float32
    assert unreadable == []


@pytest.mark.parametrize("source", [Pictures(10, unreadable=(3, 4))])
class TestExactResumption:
    def test_batch_size_does_not_change_the_samples(self, source):
        assert same(samples(source, 24, batch=8), samples(source, 24, batch=4))

    def test_workers_do_not_change_the_samples(self, source):
        assert same(samples(source, 48, workers=2), samples(source, 48, workers=0))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_run_entered_later_goes_on_as_the_whole_run_does(self, source, workers):
        whole, late = samples(source, 64), samples(source, 24, start=40, workers=workers)
        assert all(torch.equal(a[40:], b) for a, b in zip(whole[:3], late[:3], strict=True))

    def test_ranks_together_see_what_one_process_sees(self, source):
        alone = samples(source, 48, batch=8)
        ranks = [samples(source, 24, batch=4, rank=rank, world=2) for rank in (0, 1)]
        for values, first, second in zip(alone[:3], *(rank[:3] for rank in ranks), strict=True):
            pairs = torch.stack([first.unflatten(0, (-1, 4)), second.unflatten(0, (-1, 4))], dim=1)
            assert torch.equal(values, pairs.flatten(0, 2))

    def test_another_seed_gives_other_crops_and_other_masks(self, source):
        left, right = samples(source, 8, seed=0), samples(source, 8, seed=1)
        assert not torch.equal(left[0], right[0]) and not torch.equal(left[2], right[2])

    def test_the_global_random_states_are_left_alone(self, source):
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        samples(source, 16, workers=0)
        samples(source, 16, workers=1)
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        assert torch.equal(before[0], after[0]) and before[1:] == after[1:]

    def test_the_global_random_state_does_not_matter(self, source):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(7)
            left = samples(source, 8)
            torch.default_generator.manual_seed(8)
            assert same(left, samples(source, 8))


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own():
    labels = samples(Pictures(12), 36)[1].reshape(3, 12)
    assert all(sorted(epoch) == list(range(12)) for epoch in labels.tolist())
    assert len({tuple(epoch) for epoch in labels.tolist()}) == 3


def test_one_batch_may_hold_many_epochs():
    labels = samples(Pictures(3), 12, batch=12)[1].reshape(4, 3)
    assert all(sorted(epoch) == [0, 1, 2] for epoch in labels.tolist())


class TestRepeats:
    def test_each_image_comes_so_many_times_in_a_row_and_every_sample_differs(self):
        once, thrice = samples(Pictures(8), 8), samples(Pictures(8), 24, repeats=3)
        assert torch.equal(thrice[1], once[1].repeat_interleave(3))
        for values in (thrice[0], thrice[2]):  # its own crop, its own mask
            assert len({tuple(sample.flatten().tolist()) for sample in values}) == 24

    def test_an_image_is_read_once_where_a_batch_has_all_of_its_samples(self):
        source = Pictures(8)
        reads, read = [], source.croppable
        source.croppable = lambda index: reads.append(index) or read(index)
        samples(source, 24, batch=6, repeats=3)
        assert sorted(reads) == list(range(8))

    def test_neither_batches_nor_ranks_nor_resumption_change_the_samples(self):
        source = Pictures(10, unreadable=(3, 4))
        whole = samples(source, 48, batch=8, repeats=3)
        # A file that two batches share is read by both, and named twice.
        assert same((*whole[:3], []), (*samples(source, 48, batch=4, repeats=3)[:3], []))
        late = samples(source, 16, batch=4, start=32, repeats=3)
        assert all(torch.equal(a[32:], b) for a, b in zip(whole[:3], late[:3], strict=True))
        ranks = [
            samples(source, 24, batch=4, rank=rank, world=2, repeats=3)[1].unflatten(0, (-1, 4)) for rank in (0, 1)
        ]
        assert torch.equal(whole[1], torch.stack(ranks, dim=1).flatten())


def test_an_image_shown_again_is_cropped_and_masked_anew():
    images, _, noise, _ = samples(Pictures(1), 4)
    assert len(images.flatten(1).unique(dim=0)) == len(noise.unique(dim=0)) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_and_the_next_readable_one_takes_its_place(workers):
    _, labels, _, unreadable = samples(Pictures(4, unreadable=(2, 3)), 4, workers=workers)
    assert sorted(labels.tolist()) == [0, 0, 0, 1]
    assert sorted(set(unreadable)) == ["picture 2: torn", "picture 3: torn"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_without_a_readable_image_is_a_one_line_error(workers):
    with pytest.raises(InvalidSetting, match=r"^.*none of the 3 images.*$") as error:
        samples(Pictures(3, unreadable=(0, 1, 2)), 4, workers=workers)
    assert "\n" not in str(error.value)


def test_files_that_are_no_images_are_named_with_their_path(odd_files):
    source = create_dataset("folder", "train", root=odd_files)
    unreadable = samples(source, 2 * len(source), batch=1)[3]
    assert {line.split(":")[0] for line in unreadable} == {
        str(odd_files / name) for name in ("truncated.jpg", "letter.jpg")
    }
    assert all(len(line.splitlines()) == 1 for line in unreadable)


def test_closing_the_batches_stops_the_workers():
    others = set(multiprocessing.active_children())
    batches = training_batches(Pictures(5), image_size=(16, 16), batch=4, start=0, seed=0, workers=2, masking=masking)
    next(batches)
    assert len(set(multiprocessing.active_children()) - others) == 2
    batches.close()
    assert set(multiprocessing.active_children()) <= others


def test_workers_leave_ctrl_c_to_the_parent():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        ignore_signals(0)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_real_photographs_resume_too(shared):
    source = create_dataset("imagenette", "train", root=shared / "data" / "imagenette")
    assert len(source) == 9469 and len(source.classes) == 10
    assert same(samples(source, 32, start=9460, workers=2), samples(source, 32, start=9460, batch=8))


# ---- held-out images


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
