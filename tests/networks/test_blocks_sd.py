import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.networks import abstract_variables, blocks_sd
from tests.weights import random_variables

pytestmark = pytest.mark.quick


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_attention_is_a_softmax_over_the_context_head_by_head():
    x, context = draw(2, 5, 8), draw(2, 3, 6, seed=1)
    variables = random_variables(blocks_sd.Attention(heads=2), x, context)
    kernel = lambda name: np.float64(variables["params"][name]["kernel"])
    q, k, v = x @ kernel("to_q"), context @ kernel("to_k"), context @ kernel("to_v")
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = np.exp(q[..., part] @ k[..., part].transpose(0, 2, 1) / 2)  # sqrt(4)
        heads.append(weights / weights.sum(-1, keepdims=True) @ v[..., part])
    want = np.concatenate(heads, -1) @ kernel("to_out.0") + variables["params"]["to_out.0"]["bias"]
    assert list(variables["params"]["to_q"]) == ["kernel"]  # no bias
    np.testing.assert_allclose(blocks_sd.Attention(heads=2).apply(variables, x, context), want, atol=1e-5)


def test_attention_in_chunks_equals_attention_in_one_piece_and_so_do_its_gradients(monkeypatch):
    x, module = draw(2, 150, 8), blocks_sd.Attention(heads=2)
    variables = random_variables(module, x, x)

    def loss_and_gradient():
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(jnp.square(module.apply(variables, x, x)))))(x)

    whole, gradient = loss_and_gradient()
    monkeypatch.setattr(blocks_sd, "ATTENTION_LOGITS", 2 * 150 * 80)  # 40 of 150 queries of each picture at a time
    chunked, chunked_gradient = loss_and_gradient()
    np.testing.assert_allclose(chunked, whole, rtol=1e-5)
    np.testing.assert_allclose(chunked_gradient, gradient, atol=1e-5 * np.abs(gradient).max())


def test_attention_of_many_tokens_does_not_hold_all_their_products():
    x, module = jax.ShapeDtypeStruct((1, 8192, 64), jnp.float32), blocks_sd.Attention(heads=8)
    program = jax.jit(module.apply).lower(abstract_variables(module, x, x), x, x).compile()
    assert program.memory_analysis().temp_size_in_bytes < 0.1 * 4 * 8 * 8192**2


def test_the_feed_forward_gates_its_first_half_with_the_exact_gelu_of_the_second():
    x, context, module = draw(1, 3, 8), draw(1, 2, 8, seed=1), blocks_sd.TransformerBlock(heads=2)
    variables = random_variables(module, x, context)
    params = variables["params"]
    for name in ("attn1", "attn2"):  # leaves x alone
        params[name]["to_out.0"] = jax.tree.map(jnp.zeros_like, params[name]["to_out.0"])
    x64 = np.float64(x)
    y = (x64 - x64.mean(-1, keepdims=True)) / np.sqrt(x64.var(-1, keepdims=True) + 1e-5)
    y = y * params["norm3"]["scale"] + params["norm3"]["bias"]
    y = y @ params["ff.net.0.proj"]["kernel"] + params["ff.net.0.proj"]["bias"]
    value, gate = y[..., :32], y[..., 32:]
    gelu = gate * (1 + np.vectorize(math.erf)(gate / 2**0.5)) / 2
    want = x64 + (value * gelu) @ params["ff.net.2"]["kernel"] + params["ff.net.2"]["bias"]
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x, context), want, atol=1e-5)


def test_projections_of_sd_1_are_those_of_sd_2_as_convolutions_of_size_1():
    x, context = draw(1, 3, 5, 8), draw(1, 2, 6, seed=1)
    linear, convolved = (blocks_sd.Transformer(heads=2, groups=4, linear=flag) for flag in (True, False))
    variables = random_variables(linear, x, context)
    want = jax.jit(linear.apply)(variables, x, context)
    for name in ("proj_in", "proj_out"):
        variables["params"][name]["kernel"] = variables["params"][name]["kernel"][None, None]  # 1 1 i o
    np.testing.assert_allclose(jax.jit(convolved.apply)(variables, x, context), want, atol=1e-5)


def test_a_transformer_divides_by_the_deviation_and_a_thousandth_at_most():
    # epsilon is 1e-6: a map with a deviation of 0.001 comes out of the norm with one of 1 / sqrt(2).
    x = np.float32([1e-3, -1e-3])[:, None] * np.ones((1, 1, 2, 4), np.float32)
    module = blocks_sd.Transformer(heads=1, groups=1)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract_variables(module, x, x[0]))
    params = variables["params"]
    params["norm"]["scale"] = np.ones(4, np.float32)
    params["proj_in"]["kernel"] = params["proj_out"]["kernel"] = np.eye(4, dtype=np.float32)
    y = jax.jit(module.apply)(variables, x, x[0]) - x
    np.testing.assert_allclose(y, x / np.sqrt(1e-6 + 1e-6), rtol=1e-4)


def test_the_step_shifts_the_channels_between_the_convolutions():
    x, emb, module = draw(2, 4, 4, 8), draw(2, 6, seed=1), blocks_sd.ResnetBlock(16, groups=4, epsilon=1e-5)
    variables, apply = random_variables(module, x, emb), jax.jit(module.apply)
    params = variables["params"]
    assert params["conv_shortcut"]["kernel"].shape == (1, 1, 8, 16)
    shift = emb @ params["time_emb_proj"]["kernel"] + params["time_emb_proj"]["bias"]
    silent = params | {"time_emb_proj": jax.tree.map(np.zeros_like, params["time_emb_proj"])}
    for index, y in enumerate(apply(variables, x, emb)):  # a picture's shift is a bias of its first convolution
        conv1 = params["conv1"] | {"bias": params["conv1"]["bias"] + shift[index]}
        want = apply({"params": silent | {"conv1": conv1}}, x, emb)[index]
        np.testing.assert_allclose(y, want, atol=1e-5)
