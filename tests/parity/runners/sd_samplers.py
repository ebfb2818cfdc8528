"""The samplers of SeeSR, AddSR and TAD-SeeSR, whole: networks, loops and all recorded noise."""

import jax
import jax.numpy as jnp

from tadsr_jax.diffusion import ddpm
from tadsr_jax.families import seesr_sampling
from tests.parity.runners.compiled import cached
from tests.parity.runners.layout import nchw, nhwc
from tests.parity.runners.seesr import denoiser_params, family_of, frozen_params


@cached
def sampler_of(*, kind: str, steps: int, config: dict):
    """(networks, jitted function of parameters and inputs -> z_T, picture, trajectory)."""
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
    modules, run = sampler_of({"kind": case.kind, "steps": steps, "config": case.config})
    params = {"student": denoiser_params(case, modules), **frozen_params(case, modules)}
    z_T, picture, made = run(params, inputs)
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
