"""Kinds of the encoders beside the diffusion of the Stable-Diffusion side: CLIP's text tower; RAM, with DAPE or not."""

import functools

import jax
import jax.numpy as jnp

from tadsr_jax.convert import lora, names
from tadsr_jax.networks import abstract_variables, clip_text, ram
from tests.parity.runners.compiled import cached
from tests.parity.runners.layout import nhwc


@cached
def text_encoder_of(**config):
    """(abstract variables, jitted apply)."""
    module = clip_text.from_public(**config)
    return abstract_variables(module), jax.jit(module.apply)


@cached
def ram_of(**config):
    """(module, its jitted apply, its jitted tag_logits)."""
    module = ram.from_public(**config)
    return module, jax.jit(module.apply), jax.jit(functools.partial(module.apply, method="tag_logits"))


def run_clip_text(case) -> dict:
    variables, apply = text_encoder_of(case.config)
    ids = jnp.asarray(case.inputs["input_ids"], jnp.int32)
    return {"last_hidden_state": apply(names.to_flax(variables, case.weights()), ids)}


def run_ram(case) -> dict:
    """States, logits and tags; updates (`lora_A`, `lora_B`) are among the weights and are merged."""
    keys = ("vision", "q2l", "num_class", "encoder_width")
    module, apply, tag_logits = ram_of({key: case.config[key] for key in keys if key in case.config})
    alpha = case.config.get("lora_alpha", 1)
    variables = names.to_flax(module, lora.ram(case.weights(), network=module, alpha=alpha))
    states = apply(variables, nhwc(case.inputs["image"]))
    outputs = {"image_embeds": states}
    if "logits" in case.outputs:
        outputs["logits"] = tag_logits(variables, states)
        outputs["tags"] = ram.is_on(outputs["logits"], case.inputs["class_threshold"]).astype(jnp.int32)
    return outputs


RUNNERS = {"clip_text": run_clip_text, "ram_encoder": run_ram}
