"""What is exported: a bundle from its folder, or the student of a training run's checkpoint."""

from pathlib import Path

from tadsr_jax import bundles
from tadsr_jax.job.saved import bundle_of, saved
from tadsr_jax.types import Bundle

TOLD = ("family", "settings", "recipe", "scale", "steps", "longest", "sampler", "color_fix", "checkpoint", "sources")


def read(source: Path, *, weights: str = "ema", step: int | None = None) -> Bundle:
    """The model of a workdir or of a bundle; `weights` and `step` choose in a workdir, and a bundle has no choice."""
    if not Path(source).is_dir():
        raise ValueError(f"{source} is no folder; expected the workdir of a training run, or a bundle.")
    if not bundles.is_bundle(source):
        found = saved(source, step=step)
        parts = found.family, found.recipe, found.state, found.fixed, found.rest, found.texts, found.sources
        return bundle_of(found.config, *parts, weights=weights)
    if step is not None or weights != "ema":
        asked = f"weights {weights!r}" if step is None else f"step {step}"
        raise ValueError(f"{source} is a bundle and holds one model, so {asked} cannot be had; give a workdir.")
    return bundles.load(source)


def described(model: Bundle) -> dict:
    """What a folder for others says about the model: how it was built, how it samples, where it comes from."""
    about = {key: model.info[key] for key in TOLD if key in model.info}
    defaults = {"scale": model.family.scale, "steps": 1, "sampler": "deterministic"}
    return {"exporter": "tadsr_jax"} | defaults | about | {"versions": bundles.versions()}
