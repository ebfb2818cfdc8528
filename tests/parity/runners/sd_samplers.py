"""The samplers of SeeSR, AddSR and TAD-SeeSR, whole: networks, loops and all recorded noise."""

import functools
import json

import jax
import jax.numpy as jnp

from tadsr_jax.convert import lora
from tadsr_jax.convert.names import to_flax
from tadsr_jax.convert.sd_names import modern_vae_names
from tadsr_jax.diffusion import ddpm
from tadsr_jax.families import seesr, seesr_sampling
from tadsr_jax.networks import controlnet, kl, ram, unet_sd
from tadsr_jax.networks.controlled_unet import ControlledUNet
from tests.parity.runners.layout import nchw, nhwc


def family_of(config: dict):
    """(words, {part: network}) of a case's config."""
    modules = {
        "unet": unet_sd.from_public(**config["unet"]),
        "controlnet": controlnet.from_public(**config["controlnet"]),
        "vae": kl.from_public(**config["vae"]),
    }
    if "ram" in config:
        modules["ram"] = ram.from_public(vision=config["ram"])
    words = seesr.words(
        ControlledUNet(modules["unet"], modules["controlnet"]),
        modules["vae"],
        None,
        modules.get("ram"),
        ddpm.from_public(**config["scheduler"]),
        scaling=config["vae"].get("scaling_factor", seesr.SCALING),
        tagger_size=config.get("ram_image_size", 384),
    )
    return words, modules


def params_of(case, modules: dict) -> dict:
    """The parameters of all parts, as samplers take them."""
    state_dicts = {part: case.weights(part) for part in modules}
    state_dicts["vae"] = modern_vae_names(state_dicts["vae"])
    if "ram" in modules:
        alpha = case.config.get("lora_alpha", 1)
        state_dicts["ram"] = lora.ram(state_dicts["ram"], network=modules["ram"], alpha=alpha)
    trees = {part: to_flax(module, state_dicts[part])["params"] for part, module in modules.items()}
    student = {"unet": trees["unet"], "controlnet": trees["controlnet"]}
    return {"student": student, "autoencoder": trees["vae"], "tagger": trees.get("ram")}


@functools.lru_cache(maxsize=8)
def sampler_of(text: str, steps: int):
    """(networks, jitted function of parameters and inputs -> z_T, picture, trajectory) of a config and its kind."""
    kind, config = json.loads(text)
    words, modules = family_of(config)
    first = config.get("start_steps", words.schedule.num_steps - 1)
    options = {"steps": steps, "first": first, "scale": config.get("conditioning_scale", 1.0)}
    if config.get("latent_tiled_size"):
        options |= {"tile": config["latent_tiled_size"], "overlap": config.get("latent_tiled_overlap") or 0}

    def run(params, inputs):
        picture, z_T = 2 * nhwc(inputs["image"]) - 1, nhwc(inputs["init_noise"])
        if config.get("start_point", "lr") == "lr":
            encoder_noise = nhwc(inputs["vae_noise"])
            z_T = seesr_sampling.start(words, params, picture, z_T, encoder_noise=encoder_noise, step=first)
        told = {"text": inputs["prompt_embeds"], "image_states": inputs["ram_encoder_hidden_states"]}
        known = words.condition(params, picture, told)
        step_noise = lambda i: nhwc(inputs["step_noise"])[i]
        if kind == "addsr_sampler":
            sampler, own = seesr_sampling.few_steps, {"refinement": config["PSR_weight"]}
        else:
            sampler, own = seesr_sampling.many_steps, {}
            if config["guidance_scale"] > 1:
                own = {"negative": inputs["negative_prompt_embeds"], "guidance": config["guidance_scale"]}
        return z_T, *sampler(words, params, known, z_T, step_noise, **options, **own)

    return modules, jax.jit(run)


def sampled(case, *, steps: int, inputs: dict):
    """(z_T, picture, trajectory), in the public layout."""
    modules, run = sampler_of(json.dumps([case.kind, case.config], sort_keys=True), steps)
    z_T, picture, made = run(params_of(case, modules), inputs)
    is_map = lambda name: name != "image_states"
    return nchw(z_T), nchw(picture), {name: nchw(a) if is_map(name) else a for name, a in made.items()}


def seesr_sampler(case) -> dict:
    config = case.config
    chain = ddpm.from_public(**config["scheduler"])
    steps = config["num_inference_steps"]
    times = ddpm.not_after(chain.timesteps(steps), config.get("start_steps"))
    # Steps that are left out may count in the numbers of the others.
    first = min(int(key.split(".")[1]) for key in case.outputs if key.startswith("latents."))
    inputs = case.inputs | {"step_noise": case.inputs["step_noise"][first:]}
    z_T, decoded, made = sampled(case, steps=steps, inputs=inputs)
    outputs = {"start_latents": z_T, "decoded": decoded, "image": jnp.clip(decoded / 2 + 0.5, 0, 1)}
    for i, (t, latents) in enumerate(zip(times, made["samples"], strict=True), start=first):
        outputs |= {f"timestep.{i}": t, f"latents.{i}": latents}
    return outputs


def addsr_sampler(case) -> dict:
    # The public AddSR takes all four steps whatever it is asked for, TAD-SeeSR one.
    steps = 1 if case.config["variant"] == "tadsr" and case.config["num_inference_steps"] == 1 else 4
    z_T, decoded, made = sampled(case, steps=steps, inputs=case.inputs)
    outputs = {"start_latents": z_T, "image": jnp.clip(decoded / 2 + 0.5, 0, 1)}
    names = {"noise_pred": "eps", "z0": "z0", "noisy_latents": "z_t", "image": "picture", "ram_states": "image_states"}
    for i, t in enumerate(ddpm.not_after(ddpm.few_steps(steps), case.config.get("start_steps"))):
        outputs |= {f"{theirs}.{t}": made[ours][i] for theirs, ours in names.items()}
    return outputs


RUNNERS = {"seesr_sampler": seesr_sampler, "addsr_sampler": addsr_sampler}
