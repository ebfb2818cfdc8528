import json
from pathlib import Path

import numpy as np
import pytest

from tadsr_jax.convert import lora, names
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.ram import RAM
from tests.parity import synth

pytestmark = pytest.mark.quick

LISTS = Path(__file__).parent.parent / "fixtures" / "lists"
SMALL = RAM(
    image_size=32,
    window_size=4,
    embed_dim=8,
    depths=(2, 1),
    num_heads=(2, 4),
    states_dim=16,
    num_class=7,
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=3,
)
SHAPES = names.public_shapes(abstract_variables(SMALL))
QKV = "visual_encoder.layers.0.blocks.1.attn.qkv"
QUERY = "tagging_head.encoder.layer.0.crossattention.self.query"


def draw(*shape):
    return np.random.default_rng(len(shape) + shape[0]).normal(size=shape).astype(np.float32)


def updates():
    """Of rank 2: queries and values of one attention, and a matrix of the head."""
    return {
        f"{QKV}.lora_A": draw(4, 8),
        f"{QKV}.lora_B": draw(16, 2),
        f"{QUERY}.lora_A": draw(2, 24),
        f"{QUERY}.lora_B": draw(24, 2),
    }


def test_an_update_of_one_matrix_is_the_product_times_alpha_over_rank():
    weight, a, b = np.eye(2, 3), np.array([[1, 2, 3], [0, 1, 0]]), np.array([[1, 0], [2, 1]])
    merged = lora.merge({"x.weight": weight, "x.bias": np.ones(2), "x.lora_A": a, "x.lora_B": b}, alpha=4)
    # B A = [[1, 2, 3], [2, 5, 6]]; alpha / r = 2.
    np.testing.assert_array_equal(merged["x.weight"], [[3, 4, 6], [4, 11, 12]])
    assert sorted(merged) == ["x.bias", "x.weight"] and merged["x.weight"].dtype == np.float32


def test_of_three_matrices_in_one_the_keys_stay():
    a, b = np.array([[1, 2], [3, 4]]), np.array([[1], [2], [10], [20]])  # rank 1, twice
    merged = lora.merge({"qkv.weight": np.zeros((6, 2)), "qkv.lora_A": a, "qkv.lora_B": b})
    np.testing.assert_array_equal(merged["qkv.weight"], [[1, 2], [2, 4], [0, 0], [0, 0], [30, 40], [60, 80]])


def test_half_precision_weights_are_updated_in_float32():
    state_dict = {"x.weight": np.ones((1, 1), np.float16), "x.lora_A": np.full((1, 1), 2**-6, np.float16),
                  "x.lora_B": np.full((1, 1), 2**-6, np.float16)}  # fmt: skip
    assert lora.merge(state_dict)["x.weight"] == np.float32(1 + 2**-12)


def test_every_update_of_dape_fits_a_weight_of_ram():
    base, dape = (
        json.loads((LISTS / f"{name}.json").read_text()) for name in ("ram_swin_large_tagging_head", "dape_lora")
    )
    modules = {name.rsplit(".", 1)[0] for name in dape}
    assert len(modules) == 28
    one_of_each = {tuple(base[f"{module}.weight"]): module for module in sorted(modules)}
    for shape, module in one_of_each.items():
        pair = {name: np.zeros(dape[name], np.float32) for name in (f"{module}.lora_A", f"{module}.lora_B")}
        assert lora.merge({f"{module}.weight": np.zeros(shape, np.float32), **pair})[f"{module}.weight"].shape == shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x.lora_B": None}, r"x\.lora_B is missing: a low-rank update needs x\.weight, x\.lora_A, x\.lora_B"),
        ({"x.weight": None}, r"x\.weight is missing"),
        ({"x.lora_B": np.zeros((3, 2))}, r"x: lora_A \(2, 3\) and lora_B \(3, 2\) make no update of a weight \(2, 3\)"),
        ({"x.lora_A": np.zeros((3, 3))}, r"x: lora_A \(3, 3\) and lora_B \(2, 2\) make no update"),
    ],
)
def test_updates_that_cannot_be_merged_are_refused(change, message):
    state_dict = {"x.weight": np.eye(2, 3), "x.lora_A": np.zeros((2, 3)), "x.lora_B": np.zeros((2, 2))} | change
    with pytest.raises(ValueError, match=message):
        lora.merge({name: array for name, array in state_dict.items() if array is not None})


def test_a_ram_file_with_its_other_parts_and_old_names_becomes_the_networks_weights():
    weights = synth.weights(SHAPES)
    file = {f"module.{name.replace('tagging_head', 'vision_multi')}": array for name, array in weights.items()}
    file |= {
        f"module.{QKV.removesuffix('.qkv')}.relative_position_index": np.zeros((16, 16), np.int64),
        "module.visual_encoder.layers.0.blocks.1.attn_mask": np.zeros((4, 16, 16), np.float32),
        "module.tag_encoder.encoder.layer.0.attention.self.query.weight": draw(3, 3),
        "module.text_decoder.cls.predictions.bias": draw(3, 1),
        "module.tagging_head.embeddings.LayerNorm.weight": draw(3, 1),
    }
    other = {"tag_encoder.encoder.layer.0.attention.self.query.lora_A": draw(2, 3)}  # half of a pair: not ours
    got = names.to_torch(names.to_flax(SMALL, lora.ram(file, updates() | other, network=SMALL)))
    changed = [name for name in weights if not np.array_equal(got[name], weights[name])]
    assert changed == [f"{QKV}.weight", f"{QUERY}.weight"]
    pair = updates()
    want = weights[f"{QUERY}.weight"] + 0.5 * pair[f"{QUERY}.lora_B"] @ pair[f"{QUERY}.lora_A"]
    np.testing.assert_allclose(got[f"{QUERY}.weight"], want, atol=1e-6)
    np.testing.assert_array_equal(got[f"{QKV}.weight"][8:16], weights[f"{QKV}.weight"][8:16])


def test_a_file_without_updates_for_the_network_is_refused():
    with pytest.raises(ValueError, match=r"no lora_A and lora_B of the image encoder; expected DAPE\.pth"):
        lora.ram(synth.weights(SHAPES), synth.weights(SHAPES), network=SMALL)


def test_what_a_ram_file_lacks_is_found_when_it_becomes_variables():
    weights = synth.weights(SHAPES)
    del weights[f"{QKV}.weight"], weights["fc.bias"]
    with pytest.raises(ValueError, match=r"2 missing: .*seem to belong to RAM"):
        names.to_flax(SMALL, lora.ram(weights, updates(), network=SMALL))


def test_bias_tables_of_another_window_are_resized_as_pictures():
    ramp = np.add.outer(10 * np.arange(5.0), np.arange(5.0)).astype(np.float32)
    table = np.stack([ramp, np.full((5, 5), 3, np.float32)], axis=-1).reshape(25, 2)  # window 3, two heads
    resized = lora.resized_table(table, 49).reshape(7, 7, 2)  # window 4
    np.testing.assert_allclose(resized[3, 3], [22, 3], rtol=1e-5)  # no offset stays in the middle
    assert (np.diff(resized[..., 0], axis=0) > 0).all() and (np.diff(resized[..., 0], axis=1) > 0).all()
    np.testing.assert_array_equal(lora.resized_table(table, 25), table)
    name = f"{QKV.removesuffix('.qkv')}.relative_position_bias_table"
    wider = synth.weights(SHAPES | {name: (25, 2)})
    assert lora.ram(wider, network=SMALL)[name].shape == SHAPES[name] == (49, 2)
