"""The terms of every recipe: functions of outputs, never of parameters, so each is checked against recorded numbers.

Per-sample results, (b,); recipes take batch means and weights. `mean_hwc` is the mean over all axes but the first.

mse                        distillation and regression          hinge_discriminator   real up, fake down
score_distillation         HSD and SDS                          hinge_generator       fake up
covariance_penalty         SinSR's inverted noise is white      lpips_distance        perceptual distance of features
distillation               distance to a teacher's predictions  time_adaptive_weight  of it, at a step of AddSR
"""

import jax
import jax.numpy as jnp
from jax import lax

TIME_ADAPTIVE = {"exponential": lambda s: 0.5 * 2.1 ** (s - 1.0), "linear": lambda s: 0.2 * s + 0.5}


def mean_hwc(x):
    """Mean over all axes but the first."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def mse(prediction, target):
    """mean_hwc((prediction - target)^2)    [ResShift, Eq. 8; SinSR, Eq. 10; TAD-SR, L_reg]."""
    return mean_hwc(jnp.square(prediction - target))


def score_distillation(z0, score_difference):
    """mean_hwc(sg[g] z0): a loss whose gradient with respect to z0 is g / (h w c); its value means nothing.

    g = eps_teacher(u_student) - eps_teacher(u_target) is TAD-SR's high-frequency score distillation (HSD), where
    u = q(z, m, t) are student's and target's latents with the same noise m at the same small t; with m itself as the
    second term it is score distillation sampling (SDS).  [TAD-SR, arXiv 2408.07476, sec. 3.2; tad_sr's `mse_hsd`]
    """
    return mean_hwc(lax.stop_gradient(score_difference) * z0)


def hinge_discriminator(real_logits, fake_logits):
    """mean relu(1 - real) + mean relu(1 + fake), over all logits of a sample; logits (b, n), unbounded."""
    return jnp.mean(jax.nn.relu(1 - real_logits), axis=1) + jnp.mean(jax.nn.relu(1 + fake_logits), axis=1)


def hinge_generator(fake_logits):
    """-mean of the logits of a sample; logits (b, n)."""
    return -jnp.mean(fake_logits, axis=1)


def covariance_penalty(residual, std, *, patch=8):
    """How far the patches of `residual` are from white noise of standard deviation `std`    [SinSR's xT_cov_loss].

    All patch x patch windows (stride 1) of each channel are vectors of patch^2 entries; C is their unbiased covariance
    a sample and channel. Returns sum over channels of mean((C - std^2 I)^2). Shapes: (b, h, w, c) -> (b,).
    """
    b, h, w, c = residual.shape
    rows, columns = h - patch + 1, w - patch + 1
    shifted = [residual[:, i : i + rows, j : j + columns] for i in range(patch) for j in range(patch)]
    windows = jnp.stack(shifted, axis=-1).reshape(b, rows * columns, c, patch**2)  # b n c p
    centred = windows - jnp.mean(windows, axis=1, keepdims=True)
    covariance = jnp.einsum("bncp,bncq->bcpq", centred, centred) / (rows * columns - 1)
    target = jnp.square(std) * jnp.eye(patch**2, dtype=residual.dtype)
    return jnp.sum(jnp.mean(jnp.square(covariance - target), axis=(2, 3)), axis=1)


def distillation(prediction, targets, weights):
    """mean_k w_k mean_hwc((x_k - x)^2): distance to a teacher's k predictions    [ADD, arXiv 2311.17042; AddSR, L_dis].

    Shapes: prediction x (b, h, w, c), targets x_k (k, b, h, w, c), weights w_k (k, b) -> (b,). AddSR's pictures are in
    [0, 1], and w_k = sqrt(abar) at the time of the teacher's k-th noise: it is trusted where it sees most of x.
    """
    return jnp.mean(weights * jax.vmap(mse, in_axes=(None, 0))(prediction, targets), axis=0)


def time_adaptive_weight(s, *, form="exponential"):
    """Weight of AddSR's distillation at the s-th of its times 999, 749, 499, 249; s from 1 to 4    [AddSR, TA-ADD].

        exponential   0.5 2.1^(s - 1)      linear   0.2 s + 0.5, a form that the released code has commented out
    The first step is left to the discriminator, for sharp pictures; later ones must keep to the teacher.
    """
    return TIME_ADAPTIVE[form](jnp.asarray(s, jnp.float32))


def lpips_distance(features_a, features_b, heads):
    """LPIPS of two pictures from their feature maps: (distance (b,), terms (layers, b))    [arXiv 1801.03924, Eq. 1].

        d = sum over layers of mean_hw( sum_c w_c (a_c / |a| - b_c / |b|)^2 ),   |a| = the norm along channels + 1e-10

    features: [(b, h, w, c)], one map a layer; heads: [(c,)], non-negative weights. Zero for equal features.
    """
    terms = [
        jnp.mean(jnp.sum(jnp.square(_unit(a) - _unit(b)) * head, axis=-1), axis=(1, 2))
        for a, b, head in zip(features_a, features_b, heads, strict=True)
    ]
    return sum(terms), jnp.stack(terms)


def _unit(features):
    """Feature vectors of length 1, or 0 where all channels are 0."""
    squares = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    # A ReLU leaves whole vectors at zero, where the root's slope is infinite: the inner `where` keeps NaN out of the
    # gradient, the outer one keeps the value.
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return features / (norm + 1e-10)
