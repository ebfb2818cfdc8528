"""Sampling in the words of the SeeSR family: many steps with guidance, or one to four that refine themselves.

    start        z_T: the latent of the enlarged picture, noised
    many_steps   z_T --(eps, a draw from the posterior; 50 times)--> z0 --(decode)--> picture                [SeeSR]
    few_steps    z_T --(eps)--> z0 --(decode)--> picture --(noised again; shown to the next step)--> ..      [AddSR]
                 one step of them is the sampler of TAD-SeeSR
    guided       classifier-free guidance           tiled       large latents, tile by tile
    refine       what a step is told after another

`known` is what `words.condition` made of the enlarged picture; `params` has "student" beside the frozen networks. Noise
is an argument wherever there is any. The compiled program of a sampler holds the denoiser once, and the decoder too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tadsr_jax.diffusion import ddpm, latent_tiles, sample
from tadsr_jax.families.seesr import Words

GUIDANCE = 5.5  # SeeSR's; the models of few steps have none
REFINEMENT = 0.5  # share of AddSR's last prediction in what it is shown; the public script says so, and uses 0.4
OVERLAP = 4  # latent positions that tiles share


def start(words: Words, frozen, picture, noise, *, encoder_noise=None, step: int | None = None):
    """z_T (n, h, w, c) from the enlarged picture (n, f h, f w, 3) in [-1, 1]: its latent, noised to `step`.

    `encoder_noise` draws the latent from the encoder's Gaussian, as the public code does; None takes its mean. `step`
    None is the last one, 999. A sampling that starts from noise alone has z_T = noise instead.
    """
    return words.schedule.start(words.encode(frozen, picture, encoder_noise), noise, step)


def guided(predict_eps: Callable, negative, guidance: float) -> Callable:
    """`predict_eps` led away from what the `negative` text (n, tokens, c) describes, both in one batch of twice n.

    eps = eps_negative + guidance (eps_positive - eps_negative)    [classifier-free guidance, arXiv 2207.12598]
    """

    def predict(z_t, t, condition):
        both = jax.tree.map(lambda x: jnp.concatenate([x, x]), condition)
        both["text"] = jnp.concatenate([negative, condition["text"]])
        eps_negative, eps_positive = jnp.split(predict_eps(jnp.concatenate([z_t, z_t]), t, both), 2)
        return eps_negative + guidance * (eps_positive - eps_negative)

    return predict


def tiled(predict_eps: Callable, *, tile: int, overlap: int) -> Callable:
    """`predict_eps` on latents (n, h, w, c) of more than tile^2 positions: tile by tile, blended    [SeeSR].

    Every tile is told its part of the picture, and the text and image states of the whole.
    """

    def predict(z_t, t, condition):
        n, h, w, c = z_t.shape
        if not latent_tiles.needed(h, w, tile=tile):
            return predict_eps(z_t, t, condition)
        side, where = latent_tiles.places(h, w, tile=tile, overlap=overlap)
        picture = condition["picture"]
        factor = picture.shape[1] // h
        cut = lambda x, factor: latent_tiles.cut(x, where, tile=side, factor=factor).reshape(
            len(where), n, side * factor, side * factor, -1
        )
        one = lambda part: predict_eps(part[0], t, condition | {"picture": part[1]})
        eps = jax.lax.map(one, (cut(z_t, 1), cut(picture, factor)))  # one after the other: memory of one tile
        return latent_tiles.blend(eps.reshape(-1, side, side, c), where, height=h, width=w)

    return predict


def predictor(words: Words, params, *, scale: float = 1.0, tile: int | None = None, overlap: int = OVERLAP) -> Callable:
    """predict_eps(z_t, t, condition) of a denoiser.

    scale           of what the ControlNet adds
    tile, overlap   latent positions; None leaves latents whole. SeeSR's tiles are of 96, those of AddSR of 320
    """

    def predict(z_t, t, condition):
        return words.predict_eps(params, z_t, t, condition, scale=scale)

    return predict if tile is None else tiled(predict, tile=tile, overlap=overlap)


def many_steps(
    words: Words,
    params,
    known,
    z_T,
    step_noise: Callable,
    *,
    steps: int = 50,
    first: int | None = None,
    negative=None,
    guidance: float = GUIDANCE,
    **options,
):
    """The picture (n, f h, f w, 3), not clipped, and the trajectory of `sample.stochastic`    [DDPM, Algorithm 2].

    step_noise   i -> noise of iteration i, as for `sample.stochastic`; the last step adds none
    first        leaves out the steps noisier than this one, to which z_T was noised
    negative     text states (n, tokens, c) to be led away from, by `guidance`; None: no guidance
    options      of `predictor`
    """
    chain = words.schedule.kept(ddpm.not_after(words.schedule.timesteps(steps), first))
    predict_eps = predictor(words, params["student"], **options)
    if negative is not None:
        predict_eps = guided(predict_eps, negative, guidance)

    def predict_z0(z_t, t):
        return chain.z0_from_eps(z_t, t, predict_eps(z_t, chain.network_time(t), known))

    z0, made = sample.stochastic(chain, predict_z0, z_T, step_noise)
    return words.decode(params, z0), made


def refine(words: Words, frozen, prediction, known: dict, *, share: float) -> dict:
    """What the next step is told: a picture drawn towards the `prediction` in [0, 1], and its image states    [AddSR].

    picture = lq + share (prediction - lq),   states = tagger(picture)            prediction-based self-refinement
    """
    picture = known["picture"] + share * (prediction - known["picture"])
    return known | {"picture": picture, "image_states": words.states(frozen, 2 * picture - 1)}


def few_steps(
    words: Words,
    params,
    known,
    z_T,
    step_noise: Callable | None = None,
    *,
    steps: int = 1,
    first: int | None = None,
    refinement: float = REFINEMENT,
    **options,
):
    """The picture (n, f h, f w, 3), not clipped, by 1 to 4 steps at 999, 749, 499, 249; and the trajectory    [AddSR].

        z0 = (z_t - sqrt(1 - abar_t) eps(z_t, t, picture_t, states_t)) / sqrt(abar_t)
        picture_{t'}, states_{t'} = refine(decode(z0)),     z_{t'} = add_noise(z0, t', step_noise(i)),    t' the next

    step_noise   i -> noise added after step i; needed for more than one step
    first        leaves out the steps noisier than this one, to which z_T was noised
    options      of `predictor`
    The first step is told what is `known`. Trajectory: z_t, eps, z0, and what the denoiser was told ("picture" in
    [0, 1], "image_states"), one entry a step.
    """
    chain = words.schedule.kept(ddpm.not_after(ddpm.few_steps(steps), first))
    predict_eps = predictor(words, params["student"], **options)
    text = known["text"]
    given = {name: known[name] for name in ("picture", "image_states")}

    def predict(z_t, t, told):
        eps = predict_eps(z_t, chain.network_time(t), told | {"text": text})
        z0 = chain.z0_from_eps(z_t, t, eps)
        return (z0, words.decode(params, z0)), {"z_t": z_t, "eps": eps, "z0": z0, **told}

    def refined(z0, picture, i, t):
        """z_t and what the denoiser is told at step t, the i-th, after what the step before made."""
        told = refine(words, params, jnp.clip(picture, -1, 1) / 2 + 0.5, given, share=refinement)
        return chain.add_noise(z0, t, step_noise(i - 1)), told

    if chain.num_steps == 1:  # nothing is refined: the tagger is not even compiled
        (_, picture), made = predict(z_T, 0, given)
        return picture, jax.tree.map(lambda x: x[None], made)

    def step(before, i):
        t = chain.num_steps - 1 - i
        # The tagger runs where its states are read, and not before the first step, whose state nobody made.
        z_t, told = jax.lax.cond(i == 0, lambda: (z_T, given), lambda: refined(*before, i, t))
        return predict(z_t, t, told)

    (_, picture), made = jax.lax.scan(step, (z_T, given["picture"]), jnp.arange(chain.num_steps))
    return picture, made
