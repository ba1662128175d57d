"""How many patches each strategy hides, which, and what decides."""

import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from losses import InvalidSetting
from recon.model.masking import STRATEGIES, mask_from_noise, strategy, visible_count

grids = st.tuples(st.integers(1, 16), st.integers(1, 16))
ratios = st.floats(0.01, 0.99)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks(name: str, grid: tuple[int, int], ratio: float, number: int) -> torch.Tensor:
    """(number, rows, columns) bool, True = hidden."""
    noise = torch.stack([strategy(name)(grid, ratio, seeded(seed)) for seed in range(number)])
    return mask_from_noise(noise, visible_count(grid[0] * grid[1], ratio)).view(number, *grid)


@pytest.mark.parametrize("name", STRATEGIES)
@given(grid=grids, ratio=ratios, seed=st.integers(0, 2**32))
@example(grid=(14, 14), ratio=0.75, seed=0)
@example(grid=(1, 16), ratio=0.5, seed=0)
def test_every_strategy_hides_exactly_the_number_that_the_ratio_says(name, grid, ratio, seed):
    patches = grid[0] * grid[1]
    visible = int(patches * (1 - ratio))
    assume(0 < visible < patches)
    noise = strategy(name)(grid, ratio, seeded(seed))
    assert noise.shape == (patches,) and noise.dtype == torch.float32
    assert mask_from_noise(noise[None], visible_count(patches, ratio)).sum() == patches - visible


@given(grid=grids, ratio=ratios, seed=st.integers(0, 2**32))
def test_block_noise_says_by_itself_what_is_hidden(grid, ratio, seed):
    patches = grid[0] * grid[1]
    assume(0 < visible_count(patches, ratio) < patches)
    noise = strategy("block")(grid, ratio, seeded(seed))
    assert (noise >= 1).sum() == patches - visible_count(patches, ratio)


@given(grid=grids, ratio=ratios)
def test_noise_of_the_grid_never_ties(grid, ratio):
    assert len(strategy("grid")(grid, ratio, None).unique()) == grid[0] * grid[1]


@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (8, 8), (14, 14), (2, 10)])
def test_the_grid_keeps_the_first_of_every_two_by_two(grid):
    visible = ~masks("grid", grid, 0.75, 1)[0]
    expected = torch.zeros(grid, dtype=torch.bool)
    expected[::2, ::2] = True
    assert torch.equal(visible, expected)


@pytest.mark.parametrize("grid", [(4, 4), (8, 8), (16, 16)])
@pytest.mark.parametrize("cell", [2, 4])
def test_the_grid_spreads_other_ratios_evenly_too(grid, cell):
    for in_each in range(1, cell**2):
        visible = ~masks("grid", grid, 1 - in_each / cell**2, 1)[0]
        per_cell = visible.view(grid[0] // cell, cell, grid[1] // cell, cell).sum((1, 3))
        assert (per_cell == in_each).all()


def neighbours_hidden(hidden: torch.Tensor) -> float:
    """The share of adjacent pairs in which both patches are hidden."""
    across, down = hidden[:, :, 1:] & hidden[:, :, :-1], hidden[:, 1:] & hidden[:, :-1]
    return (across.sum() + down.sum()).item() / (across.numel() + down.numel())


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
def test_blocks_hide_neighbours_together_and_random_does_not(ratio):
    patches, hidden = 196, 196 - int(196 * (1 - ratio))
    by_chance = hidden * (hidden - 1) / (patches * (patches - 1))
    assert neighbours_hidden(masks("random", (14, 14), ratio, 300)) == pytest.approx(by_chance, abs=0.01)
    excess = neighbours_hidden(masks("block", (14, 14), ratio, 100)) - by_chance
    # All neighbours of the hidden patches hidden would be an excess of hidden / patches - by_chance.
    assert excess > 0.4 * (hidden / patches - by_chance)


@pytest.mark.parametrize(("grid", "side"), [((8, 8), 4), ((16, 8), 2), ((6, 9), 3)])
def test_squares_are_hidden_as_wholes(grid, side):
    hidden = masks(f"blocks of {side}", grid, 0.5 if grid != (6, 9) else 2 / 3, 50)
    squares = hidden.view(50, grid[0] // side, side, grid[1] // side, side).float().mean((2, 4))
    assert set(squares.unique().tolist()) == {0, 1}
    assert squares.mean(0).min() > 0.2 and squares.mean(0).max() < 0.9  # each of them now and then


def test_the_hole_is_the_middle_half_of_each_side():
    hidden = masks("centre", (8, 12), 0.25, 1)[0]
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[2:6, 3:9] = True
    assert torch.equal(hidden, expected)


@pytest.mark.parametrize("name", ["random", "block", "blocks"])
def test_no_patch_is_always_visible_or_always_hidden(name):
    often = masks(name, (6, 9), 0.5, 400).float().mean(0)
    assert often.min() > 0.1 and often.max() < 0.9


def test_random_hides_every_patch_alike():
    number, ratio = 4000, 0.75
    often = masks("random", (4, 4), ratio, number).float().mean(0)
    assert (often - ratio).abs().max() < 5 * math.sqrt(ratio * (1 - ratio) / number)


@pytest.mark.parametrize("name", ["random", "block"])
def test_the_generator_alone_decides(name):
    before = torch.get_rng_state()
    first, same, other = (strategy(name)((8, 8), 0.6, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_the_grid_is_the_same_for_all_images():
    assert torch.equal(strategy("grid")((8, 8), 0.6, seeded(1)), strategy("grid")((8, 8), 0.6, seeded(2)))


@given(patches=st.integers(1, 400), ratio=st.floats(0, 1))
def test_kept_is_the_official_rounding(patches, ratio):
    assert visible_count(patches, ratio) == int(patches * (1 - ratio))


def test_ties_stay_visible_by_position():
    noise = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.9, 0.1, 0.1, 0.1], [1.0, 0.0, 1.0, 0.0]])
    expected = [[False, False, True, True], [True, False, False, True], [True, False, True, False]]
    assert mask_from_noise(noise, 2).tolist() == expected


@given(seed=st.integers(0, 2**32), visible=st.integers(1, 15))
def test_the_lowest_values_stay_visible(seed, visible):
    noise = torch.rand(5, 16, generator=seeded(seed))
    mask = mask_from_noise(noise, visible)
    for values, hidden in zip(noise, mask, strict=True):
        assert values[~hidden].max() < values[hidden].min() and (~hidden).sum() == visible


def test_a_row_does_not_depend_on_the_others():
    noise = torch.rand(6, 20, generator=seeded(0))
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert torch.equal(mask_from_noise(noise, 5)[order], mask_from_noise(noise[order], 5))
    assert torch.equal(mask_from_noise(noise, 5)[2:3], mask_from_noise(noise[2:3], 5))


def test_an_unknown_strategy_is_named_with_the_nearest():
    with pytest.raises(InvalidSetting, match=r"^unknown masking\.strategy 'blok'.*'block'.*$"):
        strategy("blok")


def test_blocks_within_the_image_hide_its_middle_and_on_a_torus_every_patch_equally():
    """Of 400 masks of 14 x 14 patches; 5 standard errors of a share of 147/196."""
    block, torus = (masks(name, (14, 14), 0.75, 400).float().mean(0) for name in ("block", "torus"))
    assert block[6:8, 6:8].min() > 0.94 and block[[0, 0, -1, -1], [0, -1, 0, -1]].max() < 0.27
    assert (torus - 0.75).abs().max() < 5 * (0.75 * 0.25 / 400) ** 0.5
