import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.recipes import objectives

pytestmark = pytest.mark.quick


class Judge(nn.Module):
    """Two logits a sample for every map, gain * (1, 2) * (mean of the map + condition), and the number of its looks."""

    @nn.compact
    def __call__(self, maps, condition, *, update_stats=False):
        gain = self.param("gain", nn.initializers.ones, ())
        looks = self.variable("spectral", "looks", jnp.zeros, ())
        if update_stats:
            looks.value += 1
        seen = [jnp.mean(x, axis=(1, 2, 3)) + condition for x in maps]
        return [gain * jnp.stack([x, 2 * x], axis=1) for x in seen]


PARAMS, STATS = {"gain": jnp.float32(1)}, {"spectral": {"looks": jnp.float32(0)}}
CONDITION = jnp.array([0.0, 0.25])


def maps_of(*means):
    """A map for each row: samples of these means."""
    return [jnp.asarray(row, jnp.float32)[:, None, None, None] * jnp.ones((2, 3, 2, 4)) for row in means]


REAL, FAKE = maps_of([0.5, -1.0], [0.0, 2.0]), maps_of([-0.5, 1.0], [-2.0, 0.0])
# Means and conditions by hand: (m + c) and 2 (m + c) of the first map, then of the second.
LOGITS = {
    "real": [[0.5, 1.0, 0.0, 0.0], [-0.75, -1.5, 2.25, 4.5]],
    "fake": [[-0.5, -1.0, -2.0, -4.0], [1.25, 2.5, 0.25, 0.5]],
}


def test_a_loss_is_the_weighted_sum_of_its_terms_which_are_logged_as_they_are():
    terms = {"mse": (2.0, jnp.array([1.0, 3.0])), "lpips": (jnp.array([0.5, 0.0]), jnp.array([4.0, 5.0]))}
    value, (logs, stats) = objectives.weighted(terms, "statistics")
    np.testing.assert_array_equal(logs["loss"], [2 * 1 + 0.5 * 4, 2 * 3])
    np.testing.assert_array_equal(logs["lpips"], [4, 5])
    assert value == 5 and list(logs) == ["mse", "lpips", "loss"] and stats == "statistics"


def test_logits_of_all_maps_follow_each_other_and_a_look_moves_the_state():
    logits, stats = objectives.logits(Judge(), PARAMS, STATS, REAL, CONDITION)
    np.testing.assert_allclose(logits, LOGITS["real"], rtol=1e-6)
    assert stats["spectral"]["looks"] == 1 and STATS["spectral"]["looks"] == 0


def test_a_discriminator_is_judged_by_both_hinges_after_a_look_at_each():
    value, (logs, stats) = objectives.judged(Judge(), PARAMS, STATS, REAL, FAKE, CONDITION)
    # relu(1 - real) is 0.5 0 1 1 | 1.75 2.5 0 0, relu(1 + fake) 0.5 0 0 0 | 2.25 3.5 1.25 1.5
    np.testing.assert_allclose(logs["loss_d"], [2.5 / 4 + 0.5 / 4, 4.25 / 4 + 8.5 / 4], rtol=1e-6)
    np.testing.assert_allclose(value, np.mean([0.75, 3.1875]), rtol=1e-6)
    for name in ("real", "fake"):
        np.testing.assert_allclose(logs[f"logit_{name}"], LOGITS[name], rtol=1e-6)
    assert stats["spectral"]["looks"] == 2


def test_judging_has_a_gradient_for_the_discriminator_and_none_for_what_it_sees():
    judged = lambda params, real, fake: objectives.judged(Judge(), params, STATS, real, fake, CONDITION)[0]
    of_params, *of_maps = jax.grad(judged, argnums=(0, 1, 2))(PARAMS, REAL, FAKE)
    assert of_params["gain"] != 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_maps))


def test_the_answer_is_minus_the_mean_logit_and_has_a_gradient_for_the_maps():
    values, stats = objectives.answered(Judge(), PARAMS, STATS, FAKE, CONDITION)
    np.testing.assert_allclose(values, [7.5 / 4, -4.5 / 4], rtol=1e-6)
    assert stats["spectral"]["looks"] == 1
    answer = lambda maps: objectives.answered(Judge(), PARAMS, STATS, maps, CONDITION)[0].sum()
    # Each map's mean counts once and twice in four logits, and a mean is of 24 entries.
    for gradient in jax.grad(answer)(FAKE):
        np.testing.assert_allclose(gradient, np.full((2, 3, 2, 4), -3 / 4 / 24), rtol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 0, "b": 0.0}, "config.losses: a and b are both 0; the student would learn nothing."),
        ({"a": 0, "b": 0, "c": 0}, "config.losses: a, b and c are all 0; the student would learn nothing."),
    ],
)
def test_weights_that_are_all_zero_are_refused(weights, message):
    with pytest.raises(ValueError) as error:
        objectives.check_weights(**weights)
    assert str(error.value) == message
    objectives.check_weights(**(weights | {"b": 0.1}))


def student_of(**weights):
    """A latent distillation whose parts are numbers: z_s = p, z* = 3, g = 4 z_s, E = identity."""
    options = {"regression": 0, "score": 0, "adversarial": 0} | weights
    return objectives.latent_distillation(
        Judge(),
        **options,
        z_student=lambda p, frozen, draws: p * jnp.ones((2, 1, 1, 4)),
        z_target=lambda draws: 3.0,
        score_difference=lambda z0, frozen, draws: 4 * z0,
        features=lambda z, frozen, draws: [z],
    )


DRAWS = {"z_gt": 0.5 * jnp.ones((2, 1, 1, 4)), "disc_t": jnp.zeros((2,))}


def loss_and_logs(fields, p):
    def loss(p):
        outputs = fields["generate"](p, {}, None, DRAWS)
        return fields["student_loss"](outputs, PARAMS, STATS, {}, None, DRAWS)

    (_, (logs, stats)), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.float32(p))
    return gradient, logs, stats


@pytest.mark.parametrize(
    ("weights", "gradient", "logs"),
    [  # at z_s = 1
        ({"regression": 0.5}, 0.5 * 2 * (1 - 3), {"mse": 4.0}),
        ({"score": 0.5}, 0.5 * 4, {"hsd": 4.0}),  # of sg[4 z_s] z_s: 4, not 8
        ({"adversarial": 2.0}, -2 * 1.5, {"gan": -1.5}),
    ],
)
def test_each_term_of_a_latent_distillation_is_its_formula(weights, gradient, logs):
    fields = student_of(**weights)
    got, found, _ = loss_and_logs(fields, 1.0)
    np.testing.assert_allclose(got, gradient, rtol=1e-6)
    assert set(found) == {*logs, "loss"}
    for name, value in logs.items():
        np.testing.assert_allclose(found[name], [value, value], rtol=1e-6)
    assert bool(fields["adds"]) == bool(fields["discriminator_loss"]) == ("gan" in logs)


def test_the_discriminator_of_a_latent_distillation_sees_the_ground_truth_and_then_the_student():
    fields = student_of(adversarial=1.0)
    outputs = fields["generate"](jnp.float32(-0.25), {}, None, DRAWS)
    _, (logs, stats) = fields["discriminator_loss"](PARAMS, STATS, outputs, {}, None, DRAWS)
    np.testing.assert_allclose(logs["logit_real"], [[0.5, 1.0]] * 2)
    np.testing.assert_allclose(logs["logit_fake"], [[-0.25, -0.5]] * 2)
    assert stats["spectral"]["looks"] == 2
