"""Every pixel of a picture of reconstructions is what it should be."""

import numpy as np
import pytest
import torch
from PIL import Image

from losses.heads import NormalisedPixelHead
from losses.reconstruction import Reconstruction
from recon.metrics.fidelity import masked_psnr, mean_of_visible
from recon.report.pictures import GAP, GREY, image_grid, reconstruction_rows, write_rows
from recon.training.preview import SHOWN, EarlierPicture, earlier_picture, held_out_figures, write_picture

H, W = 8, 12


def drawn(number: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, 3, H, W, generator=torch.Generator().manual_seed(seed))


def hidden_pixels(number: int) -> torch.Tensor:
    return torch.rand(number, 1, H, W, generator=torch.Generator().manual_seed(5)) < 0.6


def cell(grid: torch.Tensor, row: int, column: int) -> torch.Tensor:
    top, left = row * (H + GAP), column * (W + GAP)
    return grid[:, top : top + H, left : left + W]


def test_rows_are_truth_masked_reconstruction_and_signed_error():
    truth, hidden, composite = drawn(2), hidden_pixels(2), drawn(2, seed=1) * 3 - 1
    rows = reconstruction_rows(truth, hidden, composite)
    assert list(rows) == ["truth", "masked", "reconstruction", "error"]
    everywhere = hidden.expand_as(truth)
    assert torch.equal(rows["truth"], truth)
    assert (rows["masked"][everywhere] == GREY).all()
    assert torch.equal(rows["masked"][~everywhere], truth[~everywhere])
    assert torch.equal(rows["reconstruction"], composite.clip(0, 1))
    assert torch.equal(rows["error"], 0.5 + (composite.clip(0, 1) - truth) / 2)
    assert all(images.min() >= 0 and images.max() <= 1 for images in rows.values())


def test_a_perfect_reconstruction_has_a_grey_error():
    truth = drawn(2)
    assert (reconstruction_rows(truth, hidden_pixels(2), truth)["error"] == GREY).all()


@pytest.mark.parametrize(("rows", "number"), [(1, 1), (4, 3), (5, 8)])
def test_every_pixel_of_the_grid_is_an_image_s_or_white(rows, number):
    images = [drawn(number, seed=row) for row in range(rows)]
    grid = image_grid(images)
    assert grid.shape == (3, rows * (H + GAP) - GAP, number * (W + GAP) - GAP)
    for row in range(rows):
        for column in range(number):
            assert torch.equal(cell(grid, row, column), images[row][column])
            cell(grid, row, column).fill_(1)
    assert (grid == 1).all()


def test_the_file_shows_the_grid_magnified_by_whole_pixels(tmp_path):
    rows = {"truth": drawn(3), "reconstruction": drawn(3, seed=1)}
    path = tmp_path / "picture.png"
    grid = write_rows(rows, "loss   5% of $x$", path)
    assert torch.equal(grid, image_grid(list(rows.values())))
    assert [found.name for found in tmp_path.iterdir()] == ["picture.png"]
    with Image.open(path) as picture:
        shown = np.asarray(picture.convert("RGB"))
    _, h, w = grid.shape
    scale = round(1000 / w)
    top = shown[: h * scale, -w * scale :]
    expected = np.kron(grid.permute(1, 2, 0).numpy(), np.ones((scale, scale, 1))) * 255
    assert np.abs(top.astype(float) - expected).max() <= 1


@pytest.mark.parametrize(
    "title", ["a", "a long name with $40, or $50, of two terms", "two\nlines of $\\which the second"]
)
def test_no_title_is_cut_off(tmp_path, title):
    write_rows({title: drawn(3)}, "", tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        shown = np.asarray(picture.convert("L")).astype(int)
    h, w = (H, 3 * (W + GAP) - GAP)
    titles = shown[: h * round(1000 / w), : -w * round(1000 / w)]
    dark = (titles < 128).nonzero()[1]
    assert dark.size and dark.min() > 4 and dark.max() < titles.shape[1] - 4


def reconstructions(number: int, head: object = None) -> list[Reconstruction]:
    """In batches of three, patches of 4."""
    generator = torch.Generator().manual_seed(3)
    width = 48 + (2 if isinstance(head, NormalisedPixelHead) else 0)
    prediction = torch.randn(number, 6, width, generator=generator)
    mask = torch.rand(number, 6, generator=generator).argsort(1) < 4
    parts = zip(prediction.split(3), drawn(number).split(3), mask.split(3), strict=True)
    return [Reconstruction(*part, head) for part in parts]


def test_the_preview_shows_images_spread_over_the_held_out_ones(tmp_path):
    found = reconstructions(20)
    grid = write_picture(found, "caption", tmp_path / "picture.png")
    shown = range(0, 20, 3)
    assert len(shown) <= SHOWN and grid.shape == (3, 4 * (H + GAP) - GAP, len(shown) * (W + GAP) - GAP)
    for column, i in enumerate(shown):
        r, k = found[i // 3], i % 3
        assert torch.equal(cell(grid, 0, column), r.image[k])
        assert torch.equal(cell(grid, 2, column), r.composite[k].clamp(0, 1))


def test_a_warm_start_shows_what_was_drawn_before_and_what_others_draw(tmp_path):
    earlier, now, other = (reconstructions(7) for _ in range(3))
    earlier = [r.at(r.prediction + 1, "hidden") for r in earlier]
    other = [r.at(r.prediction - 1, "hidden") for r in other]
    kept = earlier_picture("before", earlier, {"another": other})
    again = EarlierPicture.of(kept.state())  # as from a checkpoint
    grid = write_picture(now, "caption", tmp_path / "picture.png", again)
    assert grid.shape[1] == 6 * (H + GAP) - GAP
    assert again.figures == held_out_figures(earlier)
    rows = (now[0].image, None, *(r[0].composite.clamp(0, 1) for r in (earlier, now, other)))
    for row, images in enumerate(rows):
        if images is not None:
            torch.testing.assert_close(cell(grid, row, 1), images[1], rtol=0, atol=1 / 500)


def test_a_run_from_before_others_were_shown_goes_on_without(tmp_path):
    state = earlier_picture("before", reconstructions(2), {}).state()
    del state["beside"]
    assert EarlierPicture.of(state).beside == {}


def test_a_head_with_statistics_shows_the_oracle_too(tmp_path):
    found = reconstructions(2, NormalisedPixelHead())
    grid = write_picture(found, "caption", tmp_path / "picture.png")
    assert grid.shape[1] == 5 * (H + GAP) - GAP
    assert torch.equal(cell(grid, 4, 1), found[0].oracle_composite[1].clamp(0, 1))


def test_psnrs_are_means_over_images_not_over_batches():
    found = reconstructions(7)
    seen = held_out_figures(found)
    ours, baseline = seen["masked_psnr"], seen["mean_colour_psnr"]
    image, truth, hidden = (
        torch.cat([getattr(r, view) for r in found]) for view in ("composite", "image", "hidden_pixels")
    )
    assert ours == pytest.approx(masked_psnr(image, truth, hidden).mean().item(), rel=1e-6)
    assert baseline == pytest.approx(masked_psnr(mean_of_visible(truth, hidden), truth, hidden).mean().item(), rel=1e-6)
