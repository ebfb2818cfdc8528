import itertools

import numpy as np
import pytest

from tadsr_jax.upscale import tiles

pytestmark = pytest.mark.quick

PICTURE = np.random.default_rng(0).normal(size=(2, 11, 14, 3)).astype(np.float32)


def repeat(picture, scale=2):
    """Nearest-neighbour enlargement: what a pixel becomes depends on nothing but the pixel."""
    return picture.repeat(scale, axis=1).repeat(scale, axis=2)


def test_the_last_tile_is_moved_back_to_end_with_the_picture():
    assert tiles.starts(10, size=4, stride=3) == [0, 3, 6]
    assert tiles.starts(11, size=4, stride=3) == [0, 3, 6, 7]


def test_a_tile_that_would_come_twice_comes_once():
    assert tiles.starts(8, size=4, stride=1) == [0, 1, 2, 3, 4]
    assert tiles.starts(8, size=4, stride=4) == [0, 4]


def test_a_picture_no_longer_than_a_tile_is_one_tile():
    assert tiles.starts(4, size=4, stride=2) == [0]
    assert tiles.starts(3, size=4, stride=2) == [0]


def test_every_pixel_is_covered():
    for length in range(1, 30):
        covered = {p for start in tiles.starts(length, size=5, stride=4) for p in range(start, min(start + 5, length))}
        assert covered == set(range(length))


@pytest.mark.parametrize(("length", "overlap", "align"), [(300, 16, 4), (129, 16, 1), (200, 32, 8), (128, 16, 4)])
def test_spread_tiles_cover_the_axis_evenly_and_overlap_enough(length, overlap, align):
    length += -length % align
    first = tiles.spread(length, size=128, overlap=overlap, align=align)
    assert first[0] == 0 and first[-1] == max(length - 128, 0)
    assert all(start % align == 0 for start in first)
    overlaps = [start + 128 - following for start, following in itertools.pairwise(first)]
    assert all(overlap - align < shared for shared in overlaps)
    assert not overlaps or max(overlaps) - min(overlaps) <= align
    fewer = len(first) - 1
    assert length > fewer * 128 - (fewer - 1) * overlap, "one tile fewer would do"


SHARES = {
    "average": lambda length, first, size: tiles.average_shares(length, first, size),
    "smooth": lambda length, first, size: tiles.smooth_shares(length, first, size, overlap=4),
}


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("first", [[0, 8, 16], [0, 5, 16], [0, 8, 9, 16]])
def test_shares_sum_to_one_at_every_pixel(kind, first):
    total = np.zeros(28)
    for start, share in zip(first, SHARES[kind](28, first, 12), strict=True):
        total[start : start + len(share)] += share
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_smooth_shares_are_one_at_the_edge_of_the_picture_and_nothing_at_the_edge_of_a_tile():
    left, right = tiles.smooth_shares(20, [0, 8], 12, overlap=4)
    np.testing.assert_allclose(left[:8], 1)
    np.testing.assert_allclose(right[4:], 1)
    assert left[-1] < 1e-4 and right[0] < 1e-4
    assert np.all(np.diff(left) <= 0) and np.all(np.diff(right) >= 0)
    np.testing.assert_allclose(left[8:], right[3::-1])  # symmetric about the middle of the overlap


def test_bands_leave_as_soon_as_no_tile_can_reach_them():
    rows, columns = [0, 3], [0, 2]
    seen = []
    bands = tiles.Bands(
        5,
        rows=rows,
        columns=columns,
        row_shares=tiles.average_shares(7, rows, 4),
        column_shares=tiles.average_shares(5, columns, 3),
        emit=lambda first, band: seen.append((first, len(band), number)),
    )
    for number in range(4):  # noqa: B007  emit looks at it
        bands.add(np.ones((4, 3, 1), np.float32))
    assert seen == [(0, 3, 1), (3, 4, 3)]  # after the second tile, and after the fourth


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_tiles_of_a_pixelwise_enlargement_add_up_to_that_of_the_whole(at_once):
    got = tiles.average(repeat, PICTURE, size=6, stride=4, scale=2, at_once=at_once)
    np.testing.assert_allclose(got, repeat(PICTURE), rtol=1e-6)  # a mean of up to four equal numbers


def test_overlapping_tiles_are_averaged():
    # Each tile of a row of 3 becomes its own mean: means 1, 2 over pixels 0-2 and 1-3 of (0, 1, 2, 3).
    flatten = lambda stack: np.broadcast_to(stack.mean(axis=(1, 2, 3), keepdims=True), stack.shape)
    row = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    got = tiles.average(flatten, row, size=3, stride=1, scale=1)
    np.testing.assert_allclose(got[0, 0, :, 0], [1, 1.5, 1.5, 2])


def test_no_more_tiles_are_stacked_than_asked_for():
    stacked = []
    tiles.average(lambda x: stacked.append(x.shape) or repeat(x), PICTURE, size=6, stride=4, scale=2, at_once=5)
    # 3 x 3 places, in fives, times the 2 pictures of the batch
    assert stacked == [(10, 6, 6, 3), (8, 6, 6, 3)]


def test_a_tile_longer_than_the_picture_is_the_picture():
    got = tiles.average(repeat, PICTURE, size=64, stride=64, scale=2)
    np.testing.assert_array_equal(got, repeat(PICTURE))


def test_padding_mirrors_without_repeating_the_edge():
    picture = np.arange(6).reshape(1, 2, 3, 1)
    got = tiles.pad_to_multiple(picture, 4)[0, ..., 0]
    np.testing.assert_array_equal(got, [[0, 1, 2, 1], [3, 4, 5, 4], [0, 1, 2, 1], [3, 4, 5, 4]])


def test_padding_goes_on_mirroring_where_the_picture_is_too_short():
    picture = np.arange(4).reshape(1, 2, 2, 1)
    got = tiles.pad_to_multiple(picture, 6)[0, ..., 0]
    np.testing.assert_array_equal(got, [[0, 1, 0, 1, 0, 1], [2, 3, 2, 3, 2, 3]] * 3)
    assert tiles.pad_to_multiple(np.ones((1, 1, 1, 1)), 4).shape == (1, 4, 4, 1)


def test_a_picture_that_fits_is_not_padded():
    assert tiles.pad_to_multiple(PICTURE[:, :8, :12], 4).shape == (2, 8, 12, 3)
