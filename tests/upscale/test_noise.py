import numpy as np
import pytest

from tadsr_jax.upscale import noise

pytestmark = pytest.mark.quick

NUMBERS = [[0.059911035, 0.0155596342, -1.16443849], [-0.132647127, 0.543876529, -0.200486973]]


def region(seed=0, **place):
    return noise.region(seed, **({"top": 0, "left": 0, "height": 150, "width": 70, "channels": 3} | place))


def test_a_region_is_what_lies_there_in_any_larger_one():
    whole = region(height=200, width=300)
    np.testing.assert_array_equal(region(top=37, left=101, height=90, width=65), whole[37:127, 101:166])
    np.testing.assert_array_equal(region(top=64, left=128, height=64, width=64), whole[64:128, 128:192])
    np.testing.assert_array_equal(region(top=199, left=299, height=1, width=1), whole[199:, 299:])


def test_it_is_standard_normal_and_uncorrelated_between_neighbours_and_blocks():
    whole = region(height=256, width=256)
    n = whole.size
    assert abs(whole.mean()) < 4 / np.sqrt(n) and abs(whole.std() - 1) < 4 / np.sqrt(2 * n)
    for other in (np.roll(whole, 1, 0), np.roll(whole, 1, 1), np.roll(whole, 1, 2), np.roll(whole, noise.BLOCK, 1)):
        assert abs(np.mean(whole * other)) < 4 / np.sqrt(n)


@pytest.mark.parametrize(("seed", "change"), [(0, {"seed": 1}), (0, {"draw": 1}), (2**64 - 1, {"seed": 2**64 - 2})])
def test_another_seed_or_draw_is_other_noise(seed, change):
    assert abs(np.mean(region(seed) * region(**({"seed": seed} | change)))) < 0.03


def test_the_numbers_are_those_of_the_first_release():
    np.testing.assert_allclose(region(height=1, width=2)[0], NUMBERS, rtol=1e-6)
