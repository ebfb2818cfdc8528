"""Folders of Stable Diffusion: read as they are published, written as they were, and refused in one line."""

import functools
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from tadsr_jax.convert import names, sd_folder, torch_file, torch_save
from tadsr_jax.diffusion.ddpm import ddpm_schedule
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.clip_text import CLIPTextModel
from tadsr_jax.networks.controlnet import ControlNet
from tadsr_jax.networks.dino import VisionTransformer
from tadsr_jax.networks.kl import AutoencoderKL
from tadsr_jax.networks.ram import RAM
from tadsr_jax.networks.unet_sd import SDUNet
from tests.parity import synth
from tests.parity.cases import Case

pytestmark = pytest.mark.quick

FIXTURES = Path(__file__).parents[1] / "fixtures"
PUBLIC = {  # config.json as the public libraries write it, of tiny networks
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.21.0",
        "attention_head_dim": [1, 2],
        "block_out_channels": [8, 16],
        "cross_attention_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "num_class_embeds": None,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "upcast_attention": False,
        "use_image_cross_attention": True,
        "use_linear_projection": True,
    },
    "controlnet": {
        "_class_name": "ControlNetModel",
        "attention_head_dim": [1, 2],
        "block_out_channels": [8, 16],
        "conditioning_embedding_out_channels": [4, 8],
        "controlnet_conditioning_channel_order": "rgb",
        "cross_attention_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "use_image_cross_attention": True,
        "use_linear_projection": True,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 768,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    },
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": 16,
        "intermediate_size": 32,
        "max_position_embeddings": 16,
        "model_type": "clip_text_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "torch_dtype": "float32",
        "vocab_size": 20,
    },
    "scheduler": {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    },
}
NETWORKS = ("unet", "controlnet", "vae", "text_encoder")
FILES = {kind: "model.safetensors" if kind == "text_encoder" else "diffusion_pytorch_model.safetensors"
         for kind in NETWORKS}  # fmt: skip


@functools.cache
def weights_of(kind) -> dict:
    """Public names, synthesised arrays."""
    module = sd_folder.KINDS[kind].build(**PUBLIC[kind])
    return synth.weights(names.public_shapes(abstract_variables(module)))


def make_part(folder, kind, weights=None, *, config=None, file=None):
    """Write a part as the public libraries do; the folder that holds it."""
    (folder / kind).mkdir(parents=True)
    name = "scheduler_config.json" if kind == "scheduler" else "config.json"
    (folder / kind / name).write_text(json.dumps(PUBLIC[kind] if config is None else config))
    if kind != "scheduler":
        weights = weights_of(kind) if weights is None else weights
        torch_save.write(folder / kind / (FILES[kind] if file is None else file), weights)
    return folder


def assert_same(found, wanted):
    """Equal names, types and bits."""
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def refusal(function, *arguments, **options) -> str:
    with pytest.raises(ValueError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_part_is_read_and_written_again_bit_by_bit(tmp_path, kind):
    part = sd_folder.read_part(make_part(tmp_path, kind), kind)
    assert part.config == PUBLIC[kind]
    assert_same(names.to_torch({"params": part.params}), weights_of(kind))
    folder = sd_folder.write_part(tmp_path / "back", kind, *part)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", FILES[kind]]
    assert_same(load_file(folder / FILES[kind]), weights_of(kind))
    assert json.loads((folder / "config.json").read_text()) == PUBLIC[kind]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_half_unless_another_type_is_asked_for(tmp_path, dtype):
    half = {name: array.astype(dtype) for name, array in weights_of("text_encoder").items()}
    make_part(tmp_path, "text_encoder", half)
    part = sd_folder.read_part(tmp_path, "text_encoder")
    folder = sd_folder.write_part(tmp_path / "back", "text_encoder", *part)
    assert_same(torch_file.read(folder / "model.safetensors"), half)
    full = sd_folder.read_part(tmp_path, "text_encoder", dtype="float32").params
    want = {name: array.astype(np.float32) for name, array in half.items()}
    assert_same(names.to_torch({"params": full}), want)


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        (
            "unet",
            SDUNet(
                block_out_channels=(8, 16),
                layers_per_block=(1, 2),
                down_block_types=("DownBlock2D",) * 2,
                up_block_types=("UpBlock2D",) * 2,
                attention_head_dim=2,
                cross_attention_dim=8,
                norm_num_groups=4,
                use_image_cross_attention=False,
            ),
        ),
        (
            "controlnet",
            ControlNet(
                block_out_channels=(8,),
                layers_per_block=1,
                down_block_types=("DownBlock2D",),
                attention_head_dim=2,
                norm_num_groups=4,
                conditioning_embedding_out_channels=(4, 8, 8),
            ),
        ),
        ("vae", AutoencoderKL(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=3)),
        ("text_encoder", CLIPTextModel(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1)),
    ],
)
def test_a_network_trained_here_gets_a_configuration_that_makes_it(tmp_path, kind, module):
    params = names.to_flax(module, synth.weights(names.public_shapes(abstract_variables(module))))["params"]
    folder = sd_folder.write_part(tmp_path, kind, module, params)
    back = sd_folder.read_part(tmp_path, kind)
    assert back.module == module
    assert_same(flatten_dict(back.params), flatten_dict(params))
    config = json.loads((folder / "config.json").read_text())
    assert config.get("_class_name", config.get("architectures")) in (
        sd_folder.KINDS[kind].public, [sd_folder.KINDS[kind].public]
    )  # fmt: skip
    assert "use_image_cross_attention" not in config or kind != "unet"
    assert not {"dtype", "remat", "parent", "name"} & config.keys()


def test_the_plain_unet_of_sd2_is_read_as_one_without_image_attentions(tmp_path):
    config = {key: value for key, value in PUBLIC["unet"].items() if key != "use_image_cross_attention"}
    plain = {name: array for name, array in weights_of("unet").items() if "image_attentions" not in name}
    part = sd_folder.read_part(make_part(tmp_path, "unet", plain, config=config), "unet")
    assert not part.module.use_image_cross_attention
    assert_same(names.to_torch({"params": part.params}), plain)


def test_an_autoencoder_under_its_old_names_is_written_under_todays(tmp_path):
    case = Case(FIXTURES / "seesr/vae_old_attention_names", FIXTURES)
    old = case.weights()
    attention = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    today = {".".join(attention.get(word, word) for word in name.split(".")): array for name, array in old.items()}
    assert set(old) - set(today)
    part = sd_folder.read_part(make_part(tmp_path, "vae", old, config=case.config), "vae")
    folder = sd_folder.write_part(tmp_path / "back", "vae", *part)
    assert_same(load_file(folder / FILES["vae"]), today)


def test_a_text_encoder_may_lack_its_prefix_and_hold_the_numbers_of_positions(tmp_path):
    bare = {name.removeprefix("text_model."): array for name, array in weights_of("text_encoder").items()}
    bare["embeddings.position_ids"] = np.arange(16)[None]
    part = sd_folder.read_part(make_part(tmp_path, "text_encoder", bare, file="pytorch_model.bin"), "text_encoder")
    assert_same(names.to_torch({"params": part.params}), weights_of("text_encoder"))


def test_a_text_encoder_under_both_names_is_refused(tmp_path):
    weights = weights_of("text_encoder")
    weights = weights | {"final_layer_norm.bias": weights["text_model.final_layer_norm.bias"]}
    message = refusal(sd_folder.read_part, make_part(tmp_path, "text_encoder", weights), "text_encoder")
    assert "1 more than once: text_model.final_layer_norm.bias" in message


def test_a_scheduler_is_its_schedule_and_its_configuration(tmp_path):
    part = sd_folder.read_part(make_part(tmp_path, "scheduler"), "scheduler")
    assert part.module is None and part.params.num_steps == 1000
    np.testing.assert_allclose(part.params.abar[[20, 999]], [0.981314, 0.00466010], rtol=1e-5)
    folder = sd_folder.write_part(tmp_path / "back", "scheduler", *part)
    assert json.loads((folder / "scheduler_config.json").read_text()) == PUBLIC["scheduler"]
    sd_folder.write_part(tmp_path / "fresh", "scheduler", None, ddpm_schedule())
    fresh = sd_folder.read_part(tmp_path / "fresh", "scheduler")
    np.testing.assert_array_equal(fresh.params.abar, part.params.abar)
    message = refusal(sd_folder.write_part, tmp_path / "no", "scheduler", None, ddpm_schedule(beta_end=0.02))
    assert message.startswith("The configuration makes another DDPMScheduler") and not (tmp_path / "no").exists()


def test_parts_are_taken_from_the_first_folder_that_has_them(tmp_path):
    addsr, sd2 = tmp_path / "addsr", tmp_path / "sd2"
    for folder, kinds in ((addsr, ("unet", "controlnet")), (sd2, ("unet", "vae", "text_encoder", "scheduler"))):
        for kind in kinds:
            make_part(folder, kind)
    (sd2 / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (sd2 / "tokenizer" / name).touch()
    assert sd_folder.parts_of(addsr, sd2, needed=[part for part in sd_folder.PARTS if part != "tagger"]) == {
        **{kind: addsr / kind for kind in ("unet", "controlnet")},
        **{kind: sd2 / kind for kind in ("vae", "text_encoder", "scheduler", "tokenizer")},
    }


def test_everything_that_is_missing_is_told_at_once_and_where_it_is_published(tmp_path):
    for kind in ("unet", "vae", "scheduler"):
        make_part(tmp_path, kind)
    (tmp_path / "unet" / FILES["unet"]).unlink()
    (tmp_path / "tokenizer").mkdir()
    assert refusal(sd_folder.parts_of, tmp_path, needed=sd_folder.PARTS) == (
        f"{tmp_path}: missing unet ({tmp_path}/unet has no diffusion_pytorch_model.safetensors, nor other weights), "
        "controlnet (there is no folder controlnet/), text_encoder (there is no folder text_encoder/), "
        "tagger (there is no folder tagger/), "
        f"tokenizer ({tmp_path}/tokenizer has no tokenizer.json or vocab.json and merges.txt); found vae, scheduler. "
        "Published: unet, controlnet with SeeSR, AddSR and TAD-SeeSR, behind the links in the READMEs of cswry/SeeSR, "
        "NJU-PCALab/AddSR and LearningHx/TAD-SR; text_encoder, tokenizer with SD-2-base, "
        "stabilityai/stable-diffusion-2-base at Hugging Face; tagger with RAM, xinyu1205/recognize-anything at Hugging "
        "Face: give its file ram_swin_large_14m.pth as --ram."
    )
    assert "no such folder" in refusal(sd_folder.parts_of, tmp_path / "nowhere")
    assert "missing vae (there is no folder vae/); found scheduler" in refusal(
        sd_folder.read_part, tmp_path / "scheduler", "vae"
    )
    assert refusal(sd_folder.read_part, tmp_path, "safety_checker") == (
        "kind is 'safety_checker'; expected one of unet, controlnet, vae, text_encoder, scheduler, tagger."
    )


@pytest.mark.parametrize("kind", [*NETWORKS, "scheduler"])
def test_a_folder_may_be_the_part_itself_whatever_it_is_called(tmp_path, kind):
    moved = make_part(tmp_path, kind).joinpath(kind).rename(tmp_path / "mine")
    assert sd_folder.parts_of(moved) == {kind: moved}
    assert sd_folder.read_part(moved, kind).config == PUBLIC[kind]


def test_of_a_checkpoint_of_the_public_training_scripts_the_student_is_read(tmp_path):
    for kind, teacher, student in (("controlnet", "controlnet_0", "controlnet_2"), ("unet", "unet_1", "unet_3")):
        make_part(tmp_path, kind)
        for name in (teacher, student):
            shutil.copytree(tmp_path / kind, tmp_path / name)
        shutil.rmtree(tmp_path / kind)
    assert sd_folder.parts_of(tmp_path) == {"unet": tmp_path / "unet_3", "controlnet": tmp_path / "controlnet_2"}


def test_a_wrong_tensor_says_its_name_its_shape_and_the_expected_one(tmp_path):
    weights = weights_of("vae") | {"quant_conv.weight": np.zeros((8, 4, 1, 1), np.float32)}
    message = refusal(sd_folder.read_part, make_part(tmp_path, "vae", weights), "vae")
    assert message.startswith(f"The weights of {tmp_path}/vae/{FILES['vae']} do not fit this network.")
    assert "quant_conv.weight (8, 4, 1, 1), expected (8, 8, 1, 1)" in message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"act_fn": "mish"}, "act_fn is 'mish'; this autoencoder has act_fn='silu' only."),
        ({"block_out_channels": ["wide", []]}, "it makes no AutoencoderKL here: "),
        ({"norm_num_groups": 0}, "it makes no AutoencoderKL here: "),
        ({"prediction": 1}, "Unknown arguments of the autoencoder: prediction."),
    ],
)
def test_a_configuration_that_is_not_possible_here_is_refused_with_its_file(tmp_path, config, message):
    folder = make_part(tmp_path, "vae", config=PUBLIC["vae"] | config)
    told = refusal(sd_folder.read_part, folder, "vae")
    assert told.startswith(f"{folder}/vae/config.json: ") and message in told


@pytest.mark.parametrize("size", [0, 7, 100, -5])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_weights_are_refused_with_their_file(tmp_path, file, size):
    path = make_part(tmp_path, "text_encoder", file=file) / "text_encoder" / file
    path.write_bytes(path.read_bytes()[:size])
    assert refusal(sd_folder.read_part, tmp_path, "text_encoder").startswith(f"{path}: ")


def test_nothing_is_written_where_parameters_configuration_or_folder_do_not_fit(tmp_path):
    part = sd_folder.read_part(make_part(tmp_path, "text_encoder"), "text_encoder")
    out, write = tmp_path / "out", sd_folder.write_part
    message = refusal(write, out, "text_encoder", part.module, part.params, part.config | {"hidden_act": "quick_gelu"})
    assert message == (
        "The configuration makes another CLIPTextModel than the given one: hidden_act is 'gelu', not 'quick_gelu'."
    )
    wrong = {**part.params, "text_model.final_layer_norm": {"scale": np.zeros(3, np.float32)}}
    message = refusal(write, out, "text_encoder", part.module, wrong)
    assert "1 missing: text_model.final_layer_norm.bias" in message
    assert "text_model.final_layer_norm.weight (3,), expected (16,)" in message
    assert not out.exists()
    assert "give --overwrite" in refusal(write, tmp_path, "text_encoder", *part)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "holiday.png").touch()
    for_vae = sd_folder.read_part(make_part(tmp_path / "other", "vae"), "vae")
    assert "exists and is no vae" in refusal(write, tmp_path, "vae", *for_vae, overwrite=True)


def test_a_part_is_replaced_whole_when_that_is_asked_for(tmp_path):
    part = sd_folder.read_part(make_part(tmp_path, "text_encoder", file="pytorch_model.bin"), "text_encoder")
    folder = sd_folder.write_part(tmp_path, "text_encoder", *part, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_large_weights_become_shards_that_are_read_as_one(tmp_path):
    part = sd_folder.read_part(make_part(tmp_path, "unet"), "unet")
    total = sum(array.nbytes for array in weights_of("unet").values())
    folder = sd_folder.write_part(tmp_path / "back", "unet", *part, shard_bytes=total // 3)
    index = json.loads((folder / f"{FILES['unet']}.index.json").read_text())
    assert index["metadata"] == {"total_size": total}
    shards = sorted(set(index["weight_map"].values()))
    assert shards[0] == f"diffusion_pytorch_model-00001-of-{len(shards):05}.safetensors" and len(shards) in (3, 4)
    for shard in shards:
        held = load_file(folder / shard)
        assert set(held) == {name for name, file in index["weight_map"].items() if file == shard}
        assert sum(array.nbytes for array in held.values()) <= total // 3
    back = sd_folder.read_part(tmp_path / "back", "unet")
    assert_same(names.to_torch({"params": back.params}), weights_of("unet"))


TINY_RAM = Case(FIXTURES / "seesr/ram_3stage", FIXTURES)


def test_a_tagger_is_a_part_too_with_the_fields_of_its_network_as_configuration(tmp_path):
    network = RAM(image_size=32, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(2, 2), num_class=None)
    params = names.to_flax(network, synth.weights(names.public_shapes(abstract_variables(network))))["params"]
    folder = sd_folder.write_part(tmp_path, "tagger", network, params)
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "RAM" and config["num_class"] is None and config["depths"] == [1, 1]
    back = sd_folder.read_part(tmp_path, "tagger")
    assert back.module == network
    assert_same(flatten_dict(back.params), flatten_dict(params))
    (folder / "config.json").write_text(json.dumps(config | {"width": 3}))
    assert "it makes no RAM here: tagger.width is unknown" in refusal(sd_folder.read_part, tmp_path, "tagger")


def test_ram_and_dape_are_read_from_their_two_files(tmp_path):
    config, weights = TINY_RAM.config, TINY_RAM.weights()
    head = {key: config["q2l"][key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers",
                                                "num_attention_heads", "layer_norm_eps")}  # fmt: skip
    vision = {"image_size": 96, "window_size": 6, "embed_dim": 24, "depths": (2, 2, 2), "num_heads": (2, 4, 8)}
    network = RAM(**vision, **head, num_class=20)
    plain = {name: array for name, array in weights.items() if "lora" not in name}
    updates = {name: array for name, array in weights.items() if "lora" in name}
    assert updates
    torch_save.write(tmp_path / "ram.pth", plain | {"text_decoder.cls.bias": np.zeros(3, np.float32)})
    torch_save.write(tmp_path / "DAPE.pth", updates | {"tag_encoder.x.lora_A": np.zeros((8, 3), np.float32)})
    module, params = sd_folder.read_ram(tmp_path / "ram.pth", network=network)
    assert module is network
    assert_same(names.to_torch({"params": params}), plain)
    _, dape = sd_folder.read_ram(tmp_path / "ram.pth", tmp_path / "DAPE.pth", network=network)
    name = "tagging_head.encoder.layer.0.crossattention.self.query"
    want = plain[f"{name}.weight"] + updates[f"{name}.lora_B"] @ updates[f"{name}.lora_A"] / 8
    np.testing.assert_allclose(names.to_torch({"params": dape})[f"{name}.weight"], want, atol=1e-6)

    message = refusal(sd_folder.read_ram, tmp_path / "ram.pth", tmp_path / "ram.pth", network=network)
    assert message.startswith(f"{tmp_path}/ram.pth: ") and "expected DAPE.pth" in message
    torch_save.write(tmp_path / "ram.pth", {name: array for name, array in plain.items() if name != "fc.bias"})
    assert "1 missing: fc.bias" in refusal(sd_folder.read_ram, tmp_path / "ram.pth", network=network)


def test_dino_files_are_read_and_of_the_other_version_refused(tmp_path):
    sizes = {"dim": 8, "depth": 1, "heads": 2, "image_size": 28, "taps": ()}
    one, two = VisionTransformer(patch=14, **sizes), VisionTransformer(version=2, patch=14, **sizes)
    files = {}
    for network in (one, two):
        weights = synth.weights(names.public_shapes(abstract_variables(network)))
        files[network.version] = torch_save.write(tmp_path / f"dino{network.version}.pth", weights)
    for read, network in ((sd_folder.read_dino, one), (sd_folder.read_dinov2, two)):
        module, params = read(files[network.version], network=network)
        assert module is network
        assert_same(names.to_torch({"params": params}), torch_file.read(files[network.version]))
    assert "mask_token. They seem to belong to VisionTransformer (DINO)" in refusal(
        sd_folder.read_dinov2, files[1], network=two
    )
