import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.networks import diffaugment

pytestmark = pytest.mark.quick


def pictures(n, h, w, c=2):
    return np.random.default_rng(0).normal(size=(n, h, w, c)).astype(np.float32)


def test_a_positive_shift_moves_up_and_to_the_left_and_zeros_come_in():
    x, shift = pictures(2, 16, 12), np.array([[2, -1], [-1, 0]])  # an eighth of 16 and of 12, rounded: 2 and 2
    want = np.zeros_like(x)
    for n, (down, right) in enumerate(shift):
        for i in range(16):
            for j in range(12):
                if 0 <= i + down < 16 and 0 <= j + right < 12:
                    want[n, i, j] = x[n, i + down, j + right]
    np.testing.assert_array_equal(diffaugment.translate(x, shift), want)


@pytest.mark.parametrize(
    ("side", "centre", "rows"),
    [
        (10, 5, [4, 5]),  # a fifth of 10 is 2
        (10, 0, [0]),
        (10, 10, [9]),  # which is drawn for even holes only
        (16, 7, [6, 7, 8]),  # 3.2 is 3
        (16, 15, [14, 15]),
        (2, 1, []),  # 0.9 pixels are none
    ],
)
def test_the_hole_is_a_fifth_of_each_side_around_its_centre(side, centre, rows):
    hole = diffaugment.cutout(np.ones((1, side, 20, 1), np.float32), np.array([[centre, 10]]))[0, :, :, 0] == 0
    want = np.zeros((side, 20), bool)
    want[rows, 8:12] = True
    np.testing.assert_array_equal(hole, want)


def test_pictures_are_moved_before_the_hole_is_made():
    x = np.ones((1, 16, 16, 1), np.float32)
    draws = {"translation": np.array([[2, 0]]), "centre": np.array([[1, 8]])}
    augmented = np.asarray(diffaugment.augment(x, draws))[0, :, :, 0]
    want = np.ones((16, 16))
    want[14:] = 0  # what moved in
    want[0:3, 7:10] = 0  # the hole has not moved
    np.testing.assert_array_equal(augmented, want)


def test_every_place_of_the_public_code_is_drawn_and_no_other():
    draws = jax.jit(lambda key: diffaugment.draw(key, (3000, 16, 10, 3), size=8))(jax.random.key(0))
    rows, columns = np.asarray(draws["translation"]).T
    assert set(rows) == {-2, -1, 0, 1, 2} and set(columns) == {-1, 0, 1}
    rows, columns = np.asarray(draws["centre"]).T
    # Holes of 3 and 2 pixels: 16 places along the odd one, 10 + 1 along the even one.
    assert set(rows) == {*range(16)} and set(columns) == {*range(11)}
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.1


def test_one_cut_is_drawn_for_a_batch_half_of_the_time():
    draw = lambda key: diffaugment.draw(key, (4, 16, 10, 3), size=8)
    draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 2000))
    assert draws["cropped"].shape == (2000,)
    assert abs(np.mean(draws["cropped"]) - 0.5) < 0.05  # four deviations and a half
    rows, columns = np.asarray(draws["corner"]).T
    assert set(rows) == {*range(9)} and set(columns) == {0, 1, 2}


def test_means_of_overlapping_windows_as_adaptive_pooling_has_them():
    x = np.array([1, 2, 4, 8, 16], np.float32).reshape(1, 1, 5, 1)
    pooled = diffaugment.area_resize(x, 3)  # windows 0-1, 1-3, 3-4
    np.testing.assert_allclose(pooled[0, 0, :, 0], [1.5, 14 / 3, 12], rtol=1e-6)
    np.testing.assert_allclose(diffaugment.area_resize(x, 7)[0, 6, :, 0], [1, 1.5, 3, 4, 6, 12, 16], rtol=1e-6)
    np.testing.assert_array_equal(diffaugment.area_resize(x[:, :, :4].repeat(4, 1), 4)[0, 0, :, 0], [1, 2, 4, 8])


def test_the_backbone_sees_a_piece_or_the_whole_as_was_drawn():
    x = pictures(2, 20, 12)
    view = jax.jit(lambda x, draws: diffaugment.view(x, draws, size=8))
    draws = {"cropped": jnp.array(True), "corner": jnp.array([11, 3])}
    np.testing.assert_array_equal(view(x, draws), x[:, 11:19, 3:11])
    whole = view(x, draws | {"cropped": jnp.array(False)})
    np.testing.assert_allclose(whole[:, 0, 0], x[:, :3, :2].mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize(("h", "w"), [(8, 8), (20, 8), (6, 12)])
def test_a_picture_that_is_no_wider_or_too_low_is_never_cut(h, w):
    x = pictures(1, h, w)
    draws = {"cropped": jnp.array(True), "corner": jnp.array([0, 0])}
    np.testing.assert_array_equal(diffaugment.view(x, draws, size=8), diffaugment.area_resize(x, 8))


def test_gradients_reach_what_is_seen_and_nothing_else():
    draws = {"translation": np.array([[1, -2]]), "centre": np.array([[9, 9]])}
    gradient = jax.grad(lambda x: jnp.sum(diffaugment.augment(x, draws)))(pictures(1, 16, 16, 1))[0, :, :, 0]
    want = np.zeros((16, 16))
    want[1:, :14] = 1
    want[9:12, 6:9] = 0  # the hole, 8 to 10 in both directions, where it was before the move
    np.testing.assert_array_equal(gradient, want)
