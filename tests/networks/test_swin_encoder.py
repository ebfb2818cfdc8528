import numpy as np
import pytest

from tadsr_jax.networks import swin_encoder

pytestmark = pytest.mark.quick


def test_what_only_a_roll_brought_together_is_masked():
    window, shift, rows, columns = 4, 2, 2, 3
    h, w = rows * window, columns * window
    # Number the nine regions of the rolled map that were neighbours before, as the Swin paper's figure 4 does.
    region = lambda count: np.searchsorted([count - window, count - shift], np.arange(count), side="right")
    regions = 3 * region(h)[:, None] + region(w)
    windows = regions.reshape(rows, window, columns, window).transpose(0, 2, 1, 3).reshape(rows, columns, -1)
    want = np.where(windows[..., :, None] == windows[..., None, :], 0, -100)
    got = swin_encoder.shifted_window_mask(rows, columns, window=window, shift=shift)
    np.testing.assert_array_equal(np.broadcast_to(got, (rows, columns, 1, 16, 16))[:, :, 0], want)


def test_neighbours_are_merged_down_the_columns_first():
    x = np.random.default_rng(3).normal(size=(1, 4, 6, 3)).astype(np.float32)
    kernel = np.random.default_rng(4).normal(size=(12, 6)).astype(np.float32)
    params = {"norm": {"scale": np.ones(12), "bias": np.zeros(12)}, "reduction": {"kernel": kernel}}
    four = np.concatenate([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], axis=-1)
    normed = (four - four.mean(-1, keepdims=True)) / np.sqrt(four.var(-1, keepdims=True) + 1e-5)
    got = swin_encoder.PatchMerging().apply({"params": params}, x)
    np.testing.assert_allclose(got, normed @ kernel, atol=1e-5)
