import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.convert import names
from tadsr_jax.networks import abstract_variables, dino
from tadsr_jax.networks.dino import EMBEDDING, VisionTransformer
from tests.weights import public_entries, random_variables

pytestmark = pytest.mark.quick

TINY = {"dim": 8, "heads": 2, "patch": 4, "image_size": 8, "depth": 2, "taps": (0, 1, EMBEDDING)}


def picture(h=8, w=8, seed=1):
    return np.random.default_rng(seed).normal(size=(2, h, w, 3)).astype(np.float32)


resized_positions = jax.jit(dino.resized_positions, static_argnums=(1, 2), static_argnames="version")


def layer_norm(x, scale, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias


@pytest.mark.parametrize(("size", "count"), [("dino_vits16", 21_665_664), ("dinov2_vits14", 22_056_576)])
def test_paths_joined_by_dots_are_the_public_names_at_released_size(size, count):
    variables = abstract_variables(VisionTransformer(**dino.SIZES[size]))
    assert list(names.public_shapes(variables).items()) == list(public_entries(size).items())
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count


def test_a_map_is_every_patch_with_its_position_plus_the_class_token_with_its_own():
    module, x = VisionTransformer(**TINY | {"depth": 0, "taps": (EMBEDDING,)}), picture()
    variables = random_variables(module)
    params = jax.tree.map(np.asarray, variables["params"])
    patches = x.reshape(2, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5)  # n i j p q c
    embedded = np.einsum("nijpqc,pqcd->nijd", patches, params["patch_embed.proj"]["kernel"])
    embedded += params["patch_embed.proj"]["bias"] + params["pos_embed"][0, 1:].reshape(2, 2, 8)
    token = params["cls_token"][0, 0] + params["pos_embed"][0, 0]
    features = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(features.maps[0], embedded + token, atol=1e-5)
    want = layer_norm(token, params["norm"]["scale"], params["norm"]["bias"])
    np.testing.assert_allclose(features.class_token, [want, want], atol=1e-5)


def test_a_block_is_attention_and_a_perceptron_each_on_a_normed_copy():
    block, x = dino.Block(heads=2, version=2), np.random.default_rng(2).normal(size=(2, 5, 8)).astype(np.float32)
    variables = abstract_variables(block, x)
    rng = np.random.default_rng(3)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, variables)
    p = variables["params"]
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]
    norm = lambda name, x: layer_norm(x, p[name]["scale"], p[name]["bias"])
    qkv = dense("attn.qkv", norm("norm1", x))
    joined = []
    for head in range(2):  # channels of q: head 0, head 1; then those of k, then of v
        q, k, v = (qkv[..., 8 * part + 4 * head :][..., :4] for part in range(3))
        weights = np.exp(q @ k.swapaxes(1, 2) / 2)
        joined.append(weights / weights.sum(-1, keepdims=True) @ v)
    y = x + p["ls1"]["gamma"] * dense("attn.proj", np.concatenate(joined, -1))
    hidden = dense("mlp.fc1", norm("norm2", y))
    hidden *= (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    want = y + p["ls2"]["gamma"] * dense("mlp.fc2", hidden)
    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), want, atol=1e-5)


def test_an_incomplete_patch_is_left_out_and_other_sizes_have_maps_of_their_own():
    module, x = VisionTransformer(**TINY), picture(15, 10)
    apply = jax.jit(functools.partial(module.apply, random_variables(module)))
    maps = apply(x).maps
    assert [a.shape for a in maps] == [(2, 3, 2, 8)] * 3
    for whole, cut in zip(maps, apply(x[:, :12, :8]).maps):
        np.testing.assert_array_equal(whole, cut)


def test_version_1_resizes_positions_linearly_and_leaves_the_class_tokens_alone():
    table = np.array([7, 0, 1, 10, 11], np.float32).reshape(1, 5, 1)  # [[0, 1], [10, 11]] after the class token
    resized = resized_positions(table, 2, 4, version=1)
    want = [7, 0, 0.25, 0.75, 1, 10, 10.25, 10.75, 11]
    np.testing.assert_allclose(resized[0, :, 0], want, rtol=1e-6)
    np.testing.assert_array_equal(resized_positions(table, 2, 2, version=1), table)


def keys_cubic(line, place, a=-0.75):
    """The value of a line at a place between its pixels; the ends repeat."""
    value = 0
    for k in range(math.floor(place) - 1, math.floor(place) + 3):
        d = abs(place - k)
        near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
        value += (near if d <= 1 else far) * line[min(max(k, 0), len(line) - 1)]
    return value


def test_version_2_resizes_positions_by_cubics_for_a_tenth_of_a_patch_more():
    table = np.random.default_rng(4).normal(size=(1, 1 + 5 * 5, 1)).astype(np.float32)
    square = table[0, 1:, 0].reshape(5, 5)
    # 4 rows are taken to be 4.1, and 9 columns 9.1.
    rows = [keys_cubic(square, (j + 0.5) * 5 / 4.1 - 0.5) for j in range(4)]
    want = np.stack([keys_cubic(np.stack(rows, 1), (j + 0.5) * 5 / 9.1 - 0.5) for j in range(9)], axis=1)
    resized = np.asarray(resized_positions(table, 4, 9, version=2))[0, :, 0]
    np.testing.assert_array_equal(resized[0], table[0, 0, 0])
    np.testing.assert_allclose(resized[1:].reshape(4, 9), want, atol=1e-5)


def test_pictures_for_dino_are_normalised_and_those_for_dinov2_only_enlarged():
    x = np.stack([np.full((2, 2), m + k * s) for k, m, s in zip((1, 2, 3), dino.MEAN, dino.DEVIATION)], -1)[None]
    np.testing.assert_allclose(dino.normalize(x.astype(np.float32)), np.broadcast_to([1, 2, 3], x.shape), rtol=1e-5)
    row = np.array([0, 1], np.float32).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(dino.enlarge(row, 4)[0, 0, :, 0], [0, 0.25, 0.75, 1])
    assert jax.eval_shape(dino.enlarge, picture()).shape == (2, 518, 518, 3)


def test_bfloat16_and_remat_keep_parameters_and_stay_close_to_float32():
    sizes = TINY | {"version": 2, "depth": 1, "taps": (0, EMBEDDING)}
    plain, x = VisionTransformer(**sizes), picture()
    variables = random_variables(plain)

    def judged(module):
        """A number made of everything that comes out, and its gradient with respect to the picture."""
        total = lambda x: sum(jnp.mean(jnp.square(a.astype(jnp.float32))) for a in jax.tree.leaves(module(x)))
        return jax.jit(jax.value_and_grad(total))(x)

    value, gradient = judged(functools.partial(plain.apply, variables))
    assert np.abs(gradient).max() > 1e-3
    # bfloat16 has 8 significant bits, and some ten roundings follow each other.
    for fields, share in (({"dtype": jnp.bfloat16}, 0.05), ({"remat": True}, 1e-5)):
        module = VisionTransformer(**sizes, **fields)
        assert jax.tree.map(jnp.shape, abstract_variables(module)) == jax.tree.map(jnp.shape, variables)
        near, near_gradient = judged(functools.partial(module.apply, variables))
        np.testing.assert_allclose(near, value, rtol=share)
        assert np.std(near_gradient - gradient) < share * np.std(gradient)


def test_public_sizes_become_the_module():
    module = dino.from_public(version=1, img=48, patch=8, dim=24, depth=12, heads=3, hooks=[2, 5], hook_patch=True)
    assert module == VisionTransformer(1, 24, 12, 3, 8, 48, (2, 5, EMBEDDING))
    assert dino.from_public(hook_patch=False).taps == (2, 5, 8, 11)
    assert dino.from_public(version=2, depth=2).taps == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"version": 3}, r"version is 3; expected 1 \(DINO\) or 2 \(DINOv2\)"),
        ({"heads": 5}, "heads is 5; expected a divisor of dim=384"),
        ({"depth": 6}, "taps has 8; expected numbers of blocks, -1 to 5"),
        ({"width": 384}, "width. Accepted: img, patch, dim"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        dino.from_public(**config)
