"""Dead leaves: discs of all sizes that occlude each other."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kstest

from recon.data import create_dataset
from recon.data.synthetic import FINER, LARGEST, LEAVES_SIDE, MATERIALS, SMALLEST, THROWN, leaf_map, paint, radii, throw

SMALL, LARGE = SMALLEST.values()
IMAGES = 180


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def train():
    return create_dataset("dead_leaves", "train")


@pytest.fixture(scope="module")
def samples(train):
    """Images (IMAGES, LEAVES_SIDE, LEAVES_SIDE, 3) in [0, 1], and their labels (IMAGES,)."""
    images, labels = zip(*(train.read(i) for i in range(IMAGES)), strict=True)
    return np.stack([np.asarray(image) for image in images]) / 255, np.array(labels)


@pytest.fixture(scope="module")
def maps():
    """30 maps of leaves for each size law."""
    random = generator()
    return {name: [leaf_map(smallest, random) for _ in range(30)] for name, smallest in SMALLEST.items()}


def test_an_image_is_a_function_of_its_split_and_index(train):
    again, val = create_dataset("dead_leaves", "train"), create_dataset("dead_leaves", "val")
    assert train.read(3)[0].tobytes() == again.read(3)[0].tobytes() and train.read(3)[1] == again.read(3)[1]
    images = [source.read(i)[0].tobytes() for source in (train, val) for i in range(20)]
    names = [source.name_of(i) for source in (train, val) for i in range(len(source))]
    assert len(set(images)) == len(images) and len(set(names)) == len(names) == 11_000
    image = train.read(0)[0]
    assert (image.mode, image.size) == ("RGB", (LEAVES_SIDE, LEAVES_SIDE))


def test_the_global_random_state_is_left_alone(train):
    before = np.random.get_state()[1].tolist()
    train.read(0)
    assert np.random.get_state()[1].tolist() == before


def test_classes_are_materials_times_sizes_and_equally_frequent(train, samples):
    assert len(train.classes) == 6 and train.classes[1] == "flat large"
    counts = np.bincount(samples[1], minlength=6)
    assert abs(counts - IMAGES / 6).max() < 4 * (IMAGES * 5 / 36) ** 0.5


@pytest.mark.parametrize("smallest", [SMALL, LARGE])
def test_radii_have_the_density_of_an_inverse_cube(smallest):
    drawn = radii(20_000, smallest, generator())
    assert smallest <= drawn.min() and drawn.max() <= LARGEST
    whole, _ = quad(lambda r: r**-3, smallest, LARGEST)

    def distribution(r):
        return np.array([quad(lambda x: x**-3, smallest, up)[0] for up in r]) / whole

    few = np.sort(drawn)[::20]  # enough points of the empirical distribution, integrated numerically
    assert abs(distribution(few) - np.arange(0, 20_000, 20) / 20_000).max() < 1.95 / 20_000**0.5  # 0.1% of samples
    assert kstest(drawn, lambda r: np.clip((smallest**-2 - r**-2) / (smallest**-2 - LARGEST**-2), 0, 1)).pvalue > 1e-3


@pytest.mark.parametrize("smallest", [SMALL, LARGE])
def test_every_point_shows_the_first_disc_that_covers_it(smallest):
    """But for one grid point at the borders of discs, which are drawn on the grid."""
    seen = leaf_map(smallest, generator())
    random, boxes = generator(), []
    while sum(map(len, boxes)) <= seen.max():
        boxes.append(throw(smallest, random))
    boxes = np.concatenate(boxes)
    radius = (boxes[:, 2:] - boxes[:, :2] + 1).mean(1) / 2
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    row, column = np.indices(seen.shape)
    first_inside, first_near = (np.full(seen.shape, len(boxes)) for _ in range(2))
    for number in reversed(range(len(boxes))):
        distance = np.hypot(column - centre[number, 0], row - centre[number, 1])
        first_inside[distance < radius[number] - 1] = number
        first_near[distance < radius[number] + 1] = number
    assert (first_near <= seen).all() and (seen <= first_inside).all()


def test_discs_cover_the_corners_as_often_as_the_middle():
    """By count over 1,000 throws: the mean area of a disc over the area thrown at, within four standard errors."""
    random = generator()
    boxes = np.concatenate([throw(SMALL, random) for _ in range(1000)])
    radius, centre = (boxes[:, 2:] - boxes[:, :2] + 1) / 2, (boxes[:, 2:] + boxes[:, :2]) / 2
    mean_square = 2 * np.log(LARGEST / SMALL) / (SMALL**-2 - LARGEST**-2)
    expected = 1000 * THROWN * np.pi * mean_square / (LEAVES_SIDE + 2 * LARGEST) ** 2
    last = LEAVES_SIDE * FINER - 1
    for point in ((0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 2)):
        covered = (((centre - point) / radius) ** 2).sum(1) <= 1
        assert abs(covered.sum() - expected) < 4 * expected**0.5


def mean_overlap(lag, smallest):
    """Area that a disc shares with itself shifted by the lag, in the mean over radii, up to a factor."""

    def overlap(r):
        return 2 * r**2 * np.arccos(lag / 2 / r) - lag / 2 * np.sqrt(4 * r**2 - lag**2)

    return quad(lambda r: r**-3 * overlap(r), max(smallest, lag / 2), LARGEST)[0]


@pytest.mark.parametrize("lag", [1, 4, 16, 40])
@pytest.mark.parametrize("size", SMALLEST)
def test_two_points_share_a_leaf_as_often_as_the_theory_says(maps, size, lag):
    """P(same leaf at a lag) = g(lag) / (2 g(0) - g(lag)), g the mean overlap: Lee, Mumford and Huang 2001, section 3.

    Within four standard errors over maps, at most 0.025 each, and 0.01 for the grid.
    """
    step = lag * FINER
    shares = [((m[:, step:] == m[:, :-step]).mean() + (m[step:] == m[:-step]).mean()) / 2 for m in maps[size]]
    error = np.std(shares, ddof=1) / len(shares) ** 0.5
    overlap = mean_overlap(lag, SMALLEST[size])
    theory = overlap / (2 * mean_overlap(0, SMALLEST[size]) - overlap)
    assert error < 0.025
    assert abs(np.mean(shares) - theory) < 4 * error + 0.01


def grid_points(leaves):
    """The points of the grid within each pixel: (LEAVES_SIDE, LEAVES_SIDE, FINER * FINER)."""
    return leaves.reshape(LEAVES_SIDE, FINER, LEAVES_SIDE, FINER).swapaxes(1, 2).reshape(LEAVES_SIDE, LEAVES_SIDE, -1)


def test_paint_covers_every_leaf_with_its_own_colour_and_clips_nothing(maps):
    for name in SMALLEST:
        leaves = maps[name][0]
        for material in MATERIALS:
            image = paint(leaves, material, generator())
            assert image.shape == (LEAVES_SIDE, LEAVES_SIDE, 3) and image.min() > 0 and image.max() < 1
        flat = paint(leaves, "flat", generator())
        blocks = (
            leaves.reshape(LEAVES_SIDE, FINER, LEAVES_SIDE, FINER).swapaxes(1, 2).reshape(LEAVES_SIDE, LEAVES_SIDE, -1)
        )
        inside = (blocks == blocks[..., :1]).all(-1)
        colours = {tuple(c) for c in np.c_[blocks[inside][:, 0], flat[inside]].round(12)}
        assert len(colours) == len(np.unique(blocks[inside][:, 0]))


def test_edges_are_antialiased(maps):
    flat = paint(maps["large"][0], "flat", generator())
    blocks = (
        maps["large"][0]
        .reshape(LEAVES_SIDE, FINER, LEAVES_SIDE, FINER)
        .swapaxes(1, 2)
        .reshape(LEAVES_SIDE, LEAVES_SIDE, -1)
    )
    mixed = (blocks != blocks[..., :1]).any(-1)
    colours = np.unique(flat[~mixed].round(12), axis=0)
    assert 0.02 < mixed.mean() < 0.2
    assert not any((abs(colours - pixel) < 1e-6).all(1).any() for pixel in flat[mixed])


def test_classes_differ_as_they_are_meant_to(samples, train):
    """By the roughness inside leaves, and by how much is edge: means over images, in standard errors."""
    grey, labels = samples[0].mean(-1), samples[1]
    steps = abs(np.diff(grey, axis=1)).reshape(len(grey), -1)
    rough, edges = np.median(steps, axis=1), (steps > 0.005).mean(1)
    of = {name: labels == label for label, name in enumerate(train.classes)}

    def clearly_less(few, many):
        return many.mean() - few.mean() > 8 * (few.var() / len(few) + many.var() / len(many)) ** 0.5

    for size in SMALLEST:
        flat, striped, noisy = (rough[of[f"{material} {size}"]] for material in MATERIALS)
        assert flat.max() < 1e-9 and striped.min() > 0.02 and clearly_less(striped, noisy)
    assert clearly_less(edges[of["flat large"]], edges[of["flat small"]])


def test_mean_and_std_are_those_of_the_images(samples, train):
    means = samples[0].mean((1, 2))
    assert (abs(means.mean(0) - train.mean) < 4 * means.std(0) / len(means) ** 0.5).all()
    np.testing.assert_allclose(samples[0].std((0, 1, 2)), train.std, rtol=0.02)
