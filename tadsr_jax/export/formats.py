"""From a workdir or a bundle to a folder of one of the formats."""

from pathlib import Path

from tadsr_jax import bundles, folders
from tadsr_jax.export import orbax_tree, outputs, stablehlo
from tadsr_jax.export.source import read
from tadsr_jax.job.saved import write_bundle

FORMATS = {"bundle": write_bundle, "orbax": orbax_tree.write, "stablehlo": stablehlo.write}  # (folder, Bundle)


def export(
    source: Path,
    output: Path,
    *,
    format: str = "bundle",
    weights: str = "ema",
    step: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the model of `source`, a workdir or a bundle, to the folder `output`; returns it.

    format      "bundle", "orbax" or "stablehlo"
    weights     of a workdir: "ema", the averaged student, which its own bundle holds; or "raw", the student itself
    step        of a workdir: which of its checkpoints, by default the latest
    overwrite   replace an earlier export; anything else in that place is refused
    ValueError of one line for whatever is wrong, before anything is written.
    """
    source, output = Path(source), Path(output)
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; expected one of {', '.join(FORMATS)}.")
    if format == "bundle" and bundles.is_bundle(source):
        raise ValueError(f"{source} is a bundle already; copy the folder, or give format orbax or stablehlo.")
    outputs.check(output, source, overwrite=overwrite)
    model = read(source, weights=weights, step=step)
    with folders.whole(output) as folder:
        FORMATS[format](folder, model)
    return output


def bundle(
    workdir: Path, output: Path, *, weights: str = "ema", step: int | None = None, overwrite: bool = False
) -> Path:
    """A checkpoint of a training run as a bundle."""
    return export(workdir, output, weights=weights, step=step, overwrite=overwrite)
