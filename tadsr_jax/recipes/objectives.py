"""What the losses of the recipes have in common: a weighted sum, a discriminator's two sides, distillation of a latent.

weighted    L, with its terms as logs          logits      D of feature maps
judged      L_D of real and generated maps     answered    L_G of generated maps
latent_distillation     everything of TAD-SR but its draws, for any family
The terms themselves are in `losses.py`; what they are measured against is in `targets.py`.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from tadsr_jax import losses


def check_weights(**weights: float) -> None:
    """Refuse weights that are all 0."""
    if any(weights.values()):
        return
    *names, last = weights
    count = "both" if len(weights) == 2 else "all"
    raise ValueError(f"config.losses: {', '.join(names)} and {last} are {count} 0; the student would learn nothing.")


def weighted(terms: dict, stats):
    """L = sum over terms of weight * term, as a `Recipe` returns it: (batch mean of L, (logs, stats)).

    terms: {name: (weight, values)}, values (b,), weight a number or (b,). Logs are the values as they are, and L.
    """
    loss = sum(weight * values for weight, values in terms.values())
    logs = {name: values for name, (_, values) in terms.items()}
    return jnp.mean(loss), (logs | {"loss": loss}, stats)


def logits(network: nn.Module, params, stats, maps, condition):
    """A discriminator's answers to feature maps, (b, all logits), and its state after one power iteration.

    maps: [(b, h, w, c)]; condition: what else the network reads, such as the steps t (b,).
    """
    variables = {"params": params, **stats}
    answers, stats = network.apply(variables, maps, condition, update_stats=True, mutable=list(stats))
    return jnp.concatenate(answers, axis=1), stats


def judged(network: nn.Module, params, stats, real, fake, condition):
    """L_D = mean relu(1 - D(real)) + mean relu(1 + D(fake)), as a `Recipe` returns it    [losses.hinge_discriminator].

    real, fake: maps that a frozen network made; neither gets a gradient. The state has seen first the one, then the
    other.
    """
    real, stats = logits(network, params, stats, lax.stop_gradient(real), condition)
    fake, stats = logits(network, params, stats, lax.stop_gradient(fake), condition)
    loss = losses.hinge_discriminator(real, fake)
    return jnp.mean(loss), ({"loss_d": loss, "logit_real": real, "logit_fake": fake}, stats)


def answered(network: nn.Module, params, stats, fake, condition):
    """L_G = -mean D(fake), (b,), and the state after this look    [losses.hinge_generator]."""
    fake, stats = logits(network, params, stats, fake, condition)
    return losses.hinge_generator(fake), stats


def latent_distillation(
    network: nn.Module,
    *,
    regression: float,
    score: float,
    adversarial: float,
    z_student: Callable,
    z_target: Callable,
    score_difference: Callable,
    features: Callable,
    score_kind: str = "hsd",
) -> dict:
    """The fields of a `Recipe` that brings a student's latent z_s to a target z* by up to three terms.

        L     = regression L_reg + score L_HSD + adversarial L_G                           [TAD-SR, arXiv 2408.07476]
        L_reg = mse(z_s, z*)                                                               losses.mse
        L_HSD = mean(sg[g] z_s)                                                            losses.score_distillation
        L_G   = -mean D(E(z_s), t_d)                                                       losses.hinge_generator
        L_D   = mean relu(1 - D(E(z_gt), t_d)) + mean relu(1 + D(sg[E(z_s)], t_d))         losses.hinge_discriminator

    z_s = z_student(params, frozen, draws); z* = z_target(draws); g = score_difference(sg[z_s], frozen, draws);
    E(z) = features(z, frozen, draws), of z noised at t_d; z_gt and t_d are the draws "z_gt" and "disc_t".
    A term of weight 0 runs no network. L_HSD is logged as `score_kind`.
    """

    def generate(params, frozen, batch, draws):
        z0 = z_student(params, frozen, draws)
        return {"z0": z0} | ({"features": features(z0, frozen, draws)} if adversarial else {})

    def init_discriminator(key, outputs, draws):
        return network.init(key, outputs["features"], draws["disc_t"], update_stats=False)

    def discriminator_loss(params, stats, outputs, frozen, batch, draws):
        real = features(draws["z_gt"], frozen, draws)
        return judged(network, params, stats, real, outputs["features"], draws["disc_t"])

    def student_loss(outputs, discriminator, stats, frozen, batch, draws):
        z0, terms = outputs["z0"], {}
        if regression:
            terms["mse"] = regression, losses.mse(z0, z_target(draws))
        if score:
            g = score_difference(lax.stop_gradient(z0), frozen, draws)
            terms[score_kind] = score, losses.score_distillation(z0, g)
        if adversarial:
            gan, stats = answered(network, discriminator, stats, outputs["features"], draws["disc_t"])
            terms["gan"] = adversarial, gan
        return weighted(terms, stats)

    return {
        "adds": {"discriminator": init_discriminator} if adversarial else {},
        "generate": generate,
        "student_loss": student_loss,
        "discriminator_loss": discriminator_loss if adversarial else None,
    }
