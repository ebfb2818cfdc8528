import numpy as np
import pytest

from tadsr_jax.networks.space_to_depth import SpaceToDepth

pytestmark = pytest.mark.quick


def test_a_latent_holds_the_pixels_of_a_block_row_by_row_then_colours():
    picture = np.arange(4 * 4 * 3, dtype=np.float32).reshape(1, 4, 4, 3)
    z = SpaceToDepth(factor=2).apply({}, picture, method="encode")
    assert z.shape == (1, 2, 2, 12) and SpaceToDepth(factor=2).embed_dim == 12
    np.testing.assert_array_equal(z[0, 0, 1], [6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23])


@pytest.mark.parametrize("quantize", [True, False])
def test_decoding_undoes_encoding_exactly(quantize):
    picture = np.random.default_rng(0).uniform(-1, 1, size=(2, 8, 12, 3)).astype(np.float32)
    module = SpaceToDepth()
    z = module.apply({}, picture, method="encode")
    np.testing.assert_array_equal(module.apply({}, z, quantize, method="decode"), picture)
