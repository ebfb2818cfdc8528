import numpy as np
import pytest

from tadsr_jax.networks import swin

pytestmark = pytest.mark.quick


def test_odd_blocks_shift_by_half_a_window_unless_the_nominal_map_is_one_window():
    geometry = [swin.block_geometry(index, resolution=16, window_size=8) for index in range(3)]
    assert geometry == [(8, 0), (8, 4), (8, 0)]
    assert swin.block_geometry(1, resolution=8, window_size=8) == (8, 0)
    assert swin.block_geometry(1, resolution=4, window_size=8) == (4, 0)


def test_windows_are_cut_row_by_row_and_joined_again():
    x = np.arange(2 * 4 * 6 * 1).reshape(2, 4, 6, 1)
    windows = swin.split_windows(x, 2)
    assert windows.shape == (2, 2, 3, 4, 1)
    np.testing.assert_array_equal(windows[0, 0, 1, :, 0], [2, 3, 8, 9])
    np.testing.assert_array_equal(swin.join_windows(windows), x)


def test_only_windows_of_the_last_row_are_masked_and_only_between_columns():
    mask = swin.window_mask(4, 6, window=2, shift=1).reshape(2, 3, 4, 4)
    left_right = np.array([[0, -100, 0, -100], [-100, 0, -100, 0]] * 2)
    np.testing.assert_array_equal(mask[0], 0)
    np.testing.assert_array_equal(mask[1], np.broadcast_to(left_right, (3, 4, 4)))
    np.testing.assert_array_equal(swin.window_mask(4, 6, window=2, shift=0), 0)


def test_relative_positions_count_rows_first_and_the_middle_is_no_offset():
    index = swin.relative_position_index(2)
    np.testing.assert_array_equal(np.diag(index), 4)
    # From the last token to the first: one row down and one column right of it.
    assert index[3, 0] == 8 and index[0, 3] == 0 and index[2, 0] == 7 and index[1, 0] == 5
