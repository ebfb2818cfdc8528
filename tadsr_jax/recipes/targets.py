"""What the distilling recipes are measured against: the start noise and the teacher's answer to it, its condition."""

from functools import partial

import jax

from tadsr_jax.diffusion import sample
from tadsr_jax.families.seesr import Words, enlarge
from tadsr_jax.types import Batch, Family

SAMPLINGS = ("deterministic", "stochastic")
CONDITIONS = ("gt", "lq")


def choice(name: str, value, accepted):
    """The value of the option `name`, refused unless it is one of `accepted`."""
    if value not in accepted:
        raise ValueError(f"config.losses.{name} is {value!r}; expected one of {', '.join(map(str, accepted))}.")
    return value


def check_sampling(sampling: str) -> None:
    choice("teacher_sampling", sampling, SAMPLINGS)


def draw(family: Family, key, frozen, batch, *, sampling: str, first=None, start=None) -> dict:
    """Condition, ground-truth latent, start noise and the teacher's output from it, without gradient.

    The noise and the teacher's output are taken from `batch.extra` ("eps", "z_tea") where it has them: a teacher's
    targets can be computed once and stored. Else the teacher samples from z_T = start(z_y, eps): all its steps, or
    those from index `first` down (a traced scalar; None: the last) with the noise level of index `start`.
    Returns condition, z_gt, eps, z_T, z_tea.
    """
    if "z_tea" in batch.extra and ("eps" not in batch.extra or first is not None):
        raise ValueError(
            "The batch stores the teacher's output (z_tea) "
            + (
                "with student_times, but not which start it belongs to."
                if "eps" in batch.extra
                else "without its noise (eps)."
            )
        )
    key_eps, key_steps = jax.random.split(key)
    condition = family.condition(frozen, batch.lq, batch.extra)
    z_gt = family.encode(frozen, batch.gt)
    eps = batch.extra["eps"] if "eps" in batch.extra else jax.random.normal(key_eps, z_gt.shape)
    z_T = family.schedule.start(condition["z_y"], eps, start)
    predict = partial(family.predict_z0, frozen["teacher"], condition=condition) if "teacher" in frozen else None
    if "z_tea" in batch.extra:
        z_tea = batch.extra["z_tea"]
    elif first is not None:
        z_tea = sample.deterministic_from(family.schedule, predict, z_T, condition["z_y"], first)
    elif sampling == "deterministic":
        z_tea, _ = sample.deterministic(family.schedule, predict, z_T, condition["z_y"])
    else:
        noise = lambda i: jax.random.normal(jax.random.fold_in(key_steps, i), z_T.shape)
        z_tea, _ = sample.stochastic(family.schedule, predict, z_T, noise)
    return {"condition": condition, "z_gt": z_gt, "eps": eps, "z_T": z_T, "z_tea": z_tea}


def enlarged(batch: Batch) -> Batch:
    """The batch with lq in the size of gt, as SeeSR's family is shown it; prepared folders hold it so."""
    return batch.replace(lq=enlarge(batch.lq, batch.gt.shape[1] // batch.lq.shape[1]))


def conditions(family: Words, frozen, batch, *, teacher: str) -> tuple[dict, dict]:
    """What the student is told, and what the teacher is told, of SeeSR's family: the same words.

    The student sees lq, the teacher the ground truth ("gt"), which makes it a better judge of details, or lq as well.
    The tagger's states of both are taken from `batch.extra` where it has them: "image_states", "gt_image_states".
    """
    condition = family.condition(frozen, batch.lq, batch.extra)
    if choice("teacher_condition", teacher, CONDITIONS) == "lq":
        return condition, condition
    extra = {"text": condition["text"], "image_states": batch.extra.get("gt_image_states")}
    return condition, family.condition(frozen, batch.gt, extra)
