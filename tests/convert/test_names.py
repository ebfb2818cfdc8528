import ml_dtypes
import numpy as np
import pytest

from tadsr_jax.convert import names, torch_file
from tadsr_jax.networks import abstract_variables, unet_swin, vq
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator
from tests.parity import synth

pytestmark = pytest.mark.quick

UNET = unet_swin.SwinUNet(
    image_size=8,
    model_channels=32,
    attention_resolutions=(8,),
    channel_mult=(1, 2),
    num_res_blocks=1,
    num_head_channels=16,
    swin_embed_dim=32,
    window_size=4,
    lq_size=16,
)
AUTOENCODER = vq.VQModel(n_embed=32, ch=32, ch_mult=(1, 2), num_res_blocks=1, resolution=16)


def discriminator_variables():
    features = [np.zeros((1, 4, 4, c), np.float32) for c in (32, 64)]
    return abstract_variables(TimeAwareDiscriminator(8, 32), features, np.zeros(1, np.int32), update_stats=False)


NETWORKS = {
    "unet": lambda: abstract_variables(UNET),
    "autoencoder": lambda: abstract_variables(AUTOENCODER),
    "discriminator": discriminator_variables,
}


def state_dict_of(variables):
    return synth.weights(names.public_shapes(variables))


def test_layouts_are_transposed_as_the_frameworks_differ():
    """A convolution's (out, in, row, column) becomes (row, column, in, out); a dense layer's (out, in), (in, out)."""
    state_dict = state_dict_of(abstract_variables(UNET))
    params = names.to_flax(UNET, state_dict)["params"]
    conv = state_dict["input_blocks.0.0.weight"]
    assert params["input_blocks.0.0"]["kernel"][2, 0, 1, 5] == conv[5, 1, 2, 0]
    dense = state_dict["time_embed.0.weight"]
    assert params["time_embed.0"]["kernel"][3, 7] == dense[7, 3]
    attention = params["middle_block.1"]["blocks.0"]["attn"]
    name = "middle_block.1.blocks.0.attn.relative_position_bias_table"
    np.testing.assert_array_equal(attention["relative_position_bias_table"], state_dict[name])


def test_spectrally_normalised_weights_keep_their_vectors_and_their_public_names():
    state_dict = state_dict_of(discriminator_variables())
    variables = names.to_flax(discriminator_variables(), state_dict)
    conv, vectors = (variables[part]["heads.1"]["main.1.fn.0"] for part in ("params", "spectral"))
    assert conv["kernel"][8, 1, 2] == state_dict["heads.1.main.1.fn.0.weight_orig"][2, 1, 8]
    np.testing.assert_array_equal(vectors["u"], state_dict["heads.1.main.1.fn.0.weight_u"])
    assert [name for name in state_dict if name.startswith("heads.1.cls")] == [
        "heads.1.cls.bias",
        "heads.1.cls.weight_orig",
        "heads.1.cls.weight_u",
        "heads.1.cls.weight_v",
    ]


@pytest.mark.parametrize("network", NETWORKS)
def test_exporting_what_was_read_gives_the_file_back_bit_by_bit(network):
    variables = NETWORKS[network]()
    state_dict = state_dict_of(variables)
    back = names.to_torch(names.to_flax(variables, state_dict))
    assert list(back) == list(state_dict)
    for name, array in state_dict.items():
        assert back[name].flags.c_contiguous and back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], array)


def test_attention_follows_all_blocks_of_its_level_in_the_order_of_a_file():
    module = AUTOENCODER.clone(attn_resolutions=(16,))
    level = [name for name in names.public_shapes(abstract_variables(module)) if name.startswith("encoder.down.0")]
    modules = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in level))
    blocks = ["block.0.norm1", "block.0.conv1", "block.0.norm2", "block.0.conv2"]
    attention = ["attn.0.norm", "attn.0.q", "attn.0.k", "attn.0.v", "attn.0.proj_out"]
    assert modules == [f"encoder.down.0.{name}" for name in [*blocks, *attention, "downsample.conv"]]


def test_wrappers_prefixes_and_constant_buffers_of_public_files_are_taken_off():
    state_dict = state_dict_of(abstract_variables(UNET))
    wrapped = {f"module._orig_mod.{name}": a for name, a in (state_dict | names.constant_buffers(UNET)).items()}
    plain, unwrapped = names.to_flax(UNET, state_dict), names.to_flax(UNET, wrapped)
    for name, array in names.to_torch(unwrapped).items():
        np.testing.assert_array_equal(array, names.to_torch(plain)[name])


def test_half_precision_files_become_float32():
    state_dict = {name: a.astype(np.float16) for name, a in state_dict_of(abstract_variables(AUTOENCODER)).items()}
    embedding = names.to_flax(AUTOENCODER, state_dict)["params"]["quantize"]["embedding"]
    assert embedding.dtype == np.float32
    np.testing.assert_array_equal(embedding, state_dict["quantize.embedding.weight"].astype(np.float32))


def test_constant_buffers_have_the_nominal_size_and_their_place_before_the_children():
    buffers = names.constant_buffers(UNET)
    # The middle's map (nominal 4) is one window, so it has no shift and no mask.
    assert [name for name in buffers if name.endswith("attn_mask")] == [
        "input_blocks.1.1.blocks.1.attn_mask",
        "output_blocks.2.1.blocks.1.attn_mask",
    ]
    assert buffers["input_blocks.1.1.blocks.1.attn_mask"].shape == (4, 16, 16)
    exported = list(names.to_torch(names.to_flax(UNET, state_dict_of(abstract_variables(UNET))), buffers=buffers))
    place = exported.index("input_blocks.1.1.blocks.1.attn_mask")
    assert exported[place + 1] == "input_blocks.1.1.blocks.1.norm1.weight"
    index = exported.index("middle_block.1.blocks.0.attn.relative_position_index")
    assert exported[index - 1].endswith("attn.relative_position_bias_table")
    assert exported[index + 1].endswith("attn.qkv.weight")


def test_one_error_lists_what_is_missing_surplus_misshapen_mistyped_and_repeated():
    state_dict = state_dict_of(abstract_variables(UNET))
    del state_dict["out.2.bias"]
    state_dict["extra.weight\x1b[2J"] = np.zeros(3)
    state_dict["time_embed.0.weight"] = np.zeros((64, 32))
    state_dict["time_embed.0.bias"] = np.zeros(128, np.int8)
    state_dict["module.time_embed.2.bias"] = state_dict["time_embed.2.bias"]
    with pytest.raises(ValueError) as error:
        names.to_flax(UNET, state_dict, source="The weights of small.pth")
    assert str(error.value).startswith("The weights of small.pth do not fit this network. 1 missing: out.2.bias; ")
    assert r"1 surplus: 'extra.weight\x1b[2J'; " in str(error.value), "nothing that moves a terminal's cursor"
    assert "1 of another shape: time_embed.0.weight (64, 32), expected (128, 32); " in str(error.value)
    assert "1 of a type that weights cannot have: time_embed.0.bias int8; " in str(error.value)
    assert "1 more than once: time_embed.2.bias. " in str(error.value)


def test_names_that_a_file_repeats_are_refused_even_where_all_fits():
    state_dict = state_dict_of(abstract_variables(AUTOENCODER))
    repeating = torch_file.StateDict(state_dict, repeated=["quant_conv.bias", "quant_conv.weight"])
    with pytest.raises(
        ValueError, match=r"2 more than once: quant_conv\.weight, quant_conv\.bias\. Names and sizes fit"
    ):
        names.to_flax(AUTOENCODER, repeating)


def test_weights_of_another_network_are_listed_in_full_and_recognised():
    other = state_dict_of(abstract_variables(AUTOENCODER))
    with pytest.raises(ValueError, match=r"They seem to belong to VQModelTorch \(a VQ autoencoder\)") as error:
        names.to_flax(UNET, other)
    assert all(name in str(error.value) for name in (*other, *names.public_shapes(abstract_variables(UNET))))


def test_half_precision_stays_where_it_is_asked_to():
    state_dict = state_dict_of(abstract_variables(AUTOENCODER))
    types = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
    mixed = {name: a.astype(types[i % 4]) for i, (name, a) in enumerate(state_dict.items())}
    back = names.to_torch(names.to_flax(AUTOENCODER, mixed, keep_dtype=True))
    for name, array in mixed.items():
        assert back[name].dtype == (np.float32 if array.dtype == np.float64 else array.dtype)
        np.testing.assert_array_equal(back[name], array.astype(back[name].dtype))


def test_constant_buffers_of_another_size_of_map_are_noticed():
    assert names.differing_buffers(UNET, {f"module.{n}": a for n, a in names.constant_buffers(UNET).items()}) == []
    larger = names.constant_buffers(UNET.clone(image_size=16, attention_resolutions=(16,), lq_size=32))
    assert names.differing_buffers(UNET, larger) == [name for name in larger if name.endswith("attn_mask")]


def test_weights_of_another_configuration_are_told_from_those_of_another_network():
    faces = abstract_variables(UNET.clone(in_channels=8, out_channels=8))
    with pytest.raises(ValueError, match="The names fit, the sizes do not: choose the configuration"):
        names.to_flax(UNET, state_dict_of(faces))
