"""Sine-cosine positions against their formula."""

import math

import numpy as np
import pytest
import torch

from recon.model.layers import sincos_positions

GRIDS = [(1, 1), (2, 2), (3, 5), (1, 9), (14, 14)]


@pytest.mark.parametrize("width", [4, 8, 128, 192, 768])
@pytest.mark.parametrize("grid", GRIDS)
def test_positions_are_sines_then_cosines_of_the_column_then_of_the_row(width, grid):
    quarter = width // 4
    frequencies = np.array([math.exp(-math.log(10000) * i / quarter) for i in range(quarter)])
    expected = np.zeros((1 + grid[0] * grid[1], width))
    for row in range(grid[0]):
        for column in range(grid[1]):
            for half, coordinate in enumerate((column, row)):
                at = expected[1 + row * grid[1] + column, half * 2 * quarter :]
                at[:quarter] = np.sin(coordinate * frequencies)
                at[quarter : 2 * quarter] = np.cos(coordinate * frequencies)
    found = sincos_positions(width, grid)
    assert found.shape == (1, 1 + grid[0] * grid[1], width) and found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=0, atol=6.0e-8)  # half a unit in the last place of 1


def test_the_class_token_has_no_position():
    assert not sincos_positions(64, (3, 4))[0, 0].any()


def test_similarity_of_two_patches_depends_on_their_offset_alone():
    p = sincos_positions(64, (6, 6))[0, 1:].double().view(6, 6, 64)
    assert torch.allclose((p * p).sum(-1), torch.tensor(32.0, dtype=torch.float64), atol=1e-5)
    for rows, columns in ((1, 0), (0, 1), (2, 3)):
        similarity = (p[: 6 - rows, : 6 - columns] * p[rows:, columns:]).sum(-1)
        assert torch.allclose(similarity, similarity[0, 0].expand_as(similarity), atol=1e-5)
        assert similarity[0, 0] < 31.9


def test_transposing_the_grid_swaps_the_halves():
    p = sincos_positions(32, (3, 5))[0, 1:].view(3, 5, 2, 16)
    q = sincos_positions(32, (5, 3))[0, 1:].view(5, 3, 2, 16)
    assert torch.equal(p.transpose(0, 1).flip(2), q)
