"""tadsr upscale: a thin door over `upscale.files`, `upscale.folder` and the `Upscaler`.

Everything that a person can get wrong is refused before the first compile and the first write.
"""

import collections
import contextlib
import json
import logging
import os
import signal
import sys
import warnings
from pathlib import Path

import click
import numpy as np
import platformdirs

from tadsr_jax.cli import refusing
from tadsr_jax.logs import clock

NO_WEIGHTS = (
    "no --weights given, and no model is shipped yet: get public ones with `tadsr download` and `tadsr convert`, or "
    "train one with `python -m tadsr_jax.main --config=configs/x4.py:small --workdir=runs/small` and give "
    "--weights runs/small/bundle."
)


class _Tile(click.ParamType):
    name = "auto|none|PIXELS"

    def convert(self, value, param, ctx):
        if value is None or isinstance(value, int) or value.lower() == "auto":
            return value or "auto"
        if value.lower() == "none":
            return "none"
        if not value.isascii() or not value.isdigit():
            self.fail(f"{value!r} is no tile size; expected auto, none, or a number of input pixels.", param, ctx)
        return int(value) or "auto"  # 0 is automatic for the ncnn tools


@click.command("upscale", short_help="Enlarge pictures: files, folders, globs.")
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("-i", "--input", "more", multiple=True, metavar="INPUT", help="The same as an INPUT; repeatable.")
@click.option(
    "-o",
    "--output",
    default="results",
    show_default=True,
    metavar="FOLDER|FILE",
    help="Folder of the results, which keeps the structure of input folders; or, for one picture, a file.",
)
@click.option(
    "-n",
    "--weights",
    metavar="BUNDLE",
    help="Folder of the model, of the training run that made it, or the name of a bundle in ., ./weights or the "
    "user's data folder.",
)
@click.option(
    "-s",
    "--scale",
    type=click.FloatRange(0, 64, min_open=True),
    metavar="X",
    show_default="the model's",
    help="Enlargement of each side; if it is not the model's, the model's result is resampled to it.",
)
@click.option(
    "-t",
    "--tile",
    type=_Tile(),
    default="auto",
    show_default=True,
    metavar="auto|none|N",
    help="Side of a tile in input pixels; none: the picture as a whole; 0: auto.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    metavar="N",
    show_default="the model's",
    help="Steps of sampling, no more than the model was trained with.",
)
@click.option(
    "--sampler",
    type=click.Choice(["deterministic", "stochastic"]),
    show_default="the model's",
    help="What several steps do: follow the predictions, or draw from the posterior.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of the noise: the same seed gives the same picture.",
)
@click.option(
    "--noise",
    type=click.Path(),
    metavar="FILE.npy",
    help="Latent noise to start from, in place of the seed's: (h, w, c) or (c, h, w), floats.",
)
@click.option(
    "--mask",
    type=click.Path(),
    metavar="FILE|FOLDER",
    help="For models that fill in: white where the picture is unknown; of colours red counts, and transparency does "
    "not. A folder has a mask of each picture's name.",
)
@click.option(
    "--color-fix",
    type=click.Choice(["none", "wavelet", "adain"]),
    show_default="the model's",
    help="Take the colours of the input.",
)
@click.option(
    "--prompt",
    metavar="WORDS",
    help="What is in the pictures, behind the tags that the model finds itself; what is beyond 77 tokens is cut off. "
    "SeeSR's family.",
)
@click.option(
    "--negative-prompt",
    metavar="WORDS",
    show_default="dotted, noise, blur, lowres, smooth",
    help="What guidance leads away from.",
)
@click.option(
    "--guidance",
    type=click.FloatRange(1),
    metavar="X",
    show_default="5.5",
    help="Strength of guidance of SeeSR's 50 steps; 1: none.",
)
@click.option(
    "--psr-weight",
    type=click.FloatRange(0, 1),
    metavar="X",
    show_default="0.5",
    help="AddSR's 2 to 4 steps: the share of the last prediction in the picture that the next step is shown. More adds "
    "detail, less keeps to the input.",
)
@click.option(
    "--start",
    type=click.Choice(["lq", "noise"]),
    show_default="lq",
    help="Where sampling starts: at the noised picture, or at noise alone. SeeSR's family.",
)
@click.option(
    "-f",
    "--format",
    type=click.Choice(["png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp", "keep"], case_sensitive=False),
    show_default="png, or as the output FILE ends",
    help="Of the results; keep: each picture's own.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=95,
    show_default=True,
    metavar="N",
    help="Of JPEG and WebP results.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    show_default="the bundle's",
    help="Of the arithmetic: bfloat16 is fast on TPU and GPU, and less exact.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 1024),
    metavar="N",
    show_default="1 on a CPU, 4 elsewhere",
    help="Tiles at once on each device.",
)
@click.option("--overwrite", is_flag=True, help="Make results anew that exist; without it they are skipped.")
@click.option("--dry-run", is_flag=True, help="Only say what would happen: tiles, memory, time.")
@click.option("--quiet", is_flag=True, help="Say nothing but what fails.")
@click.option("--json", "as_json", is_flag=True, help="Print one object: done, failed, skipped; sizes are [w, h].")
@refusing()
def command(
    inputs, more, output, weights, noise, mask, format, quality, dtype, overwrite, dry_run, quiet, as_json, **options
):
    """Enlarge pictures.

    \b
    Examples:
      tadsr upscale photo.jpg --weights runs/small/bundle
      tadsr upscale holiday/ 'scans/*.tif' -o large -s 2 --weights runs/small
      tadsr upscale photo.jpg --weights addsr --steps 2 --psr-weight 0.3 --prompt "a red fox"
    \b
    INPUT is a picture (PNG, JPEG, WebP, BMP, TIFF), a folder, searched with its subfolders, or a quoted glob.
    Results that exist are skipped: a run that was stopped goes on with the same command. Names of results are
    printed, progress goes to standard error. Exit codes: 0 all good, 1 some pictures failed, 2 wrong use,
    130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    folder = find_bundle(weights)

    from tadsr_jax.cli.progress import Progress
    from tadsr_jax.upscale import files

    progress = Progress(quiet=quiet)
    jobs = files.find([*inputs, *more], output, format=format, mask=mask, note=progress.note)
    noise = None if noise is None else _read_noise(noise)
    is_one_file = len(jobs) == 1 and jobs[0].output == Path(output)
    files.check_writable(Path(output).parent if is_one_file else output)
    with _warnings_as(progress.note):
        upscaler = _load(folder, dtype, quiet=quiet)
        if dry_run:
            code = _foresee(upscaler, jobs, options, progress, overwrite=overwrite, as_json=as_json)
        else:
            settings = {"options": options, "noise": noise, "quality": quality, "overwrite": overwrite}
            code = _work(upscaler, jobs, settings, progress, prints=not (quiet or as_json), as_json=as_json)
    sys.exit(code)


def find_bundle(weights: str | None) -> Path:
    """A bundle's folder from its path, a training run's folder, or a name; ValueError, one line, if there is none."""
    if not weights:
        raise ValueError(NO_WEIGHTS)
    from tadsr_jax import bundles

    shelves = [Path(), Path("weights"), Path(platformdirs.user_data_dir("tadsr_jax")) / "bundles"]
    is_name = Path(weights).name == weights
    for folder in [shelf / weights for shelf in shelves] if is_name else [Path(weights)]:
        if bundles.is_bundle(found := bundles.find(folder)):
            return found
    if Path(weights).is_file():
        raise ValueError(
            f"--weights {weights} is a file; expected a bundle's folder. Public PyTorch weights become one with "
            f"`tadsr convert resshift --unet {weights} -o BUNDLE`."
        )
    if any((Path(weights) / name).exists() for name in ("unet", "controlnet", "model_index.json")):
        raise ValueError(
            f"--weights {weights} is no bundle, but a folder of public weights; they become one with "
            f"`tadsr convert seesr --model {weights} ... -o BUNDLE`, see `tadsr convert --help`."
        )
    if Path(weights).exists() or not is_name:
        raise ValueError(f"--weights {weights} holds no bundle.json; expected a bundle, or a finished run's folder.")
    names = sorted({path.parent.name for shelf in shelves for path in shelf.glob("*/bundle.json")})
    found = f"found {', '.join(names)}" if names else "found none"
    raise ValueError(f"no bundle {weights!r} in {', '.join(map(str, shelves))}: {found}.")


def _read_noise(path: str) -> np.ndarray:
    """The array of a .npy file."""
    try:
        # Mapped, so that a header that promises more than the file holds is refused, not made room for.
        noise = np.load(path, allow_pickle=False, mmap_mode="r")
        noise = np.array(noise) if isinstance(noise, np.ndarray) else noise
    except OSError:
        raise
    except Exception as error:  # NumPy, zipfile and tokenize raise nearly everything on damaged files
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path} is no array of numbers ({reason}); expected a .npy file, as np.save writes it."
        ) from None
    if not isinstance(noise, np.ndarray) or noise.dtype.kind != "f" or not np.isfinite(noise).all():
        kind = getattr(noise, "dtype", "an archive")
        raise ValueError(f"{path} holds {kind}, or numbers that are not finite; expected one array of finite floats.")
    return noise


@contextlib.contextmanager
def _warnings_as(note):
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: note(message)
        yield


def _load(folder: Path, dtype: str | None, *, quiet: bool):
    from tadsr_jax import logs
    from tadsr_jax.upscale.upscaler import Upscaler

    logs.warn_in_lines()
    if quiet:
        logging.getLogger().setLevel(logging.ERROR)
    try:
        return Upscaler.load(folder, dtype=dtype)
    except RuntimeError as error:  # of jax, where JAX_PLATFORMS names what is not here, or a driver is missing
        raise ValueError(f"no device to compute on: {error}") from None


def _work(upscaler, jobs, settings: dict, progress, *, prints: bool, as_json: bool) -> int:
    """Enlarge; the exit code. What was done before a signal is reported as well."""
    from tadsr_jax import signals
    from tadsr_jax.upscale import folder

    report, code = {"done": [], "failed": [], "skipped": []}, None
    try:
        with signals.stopped_at_once():
            for kind, entry in folder.outcomes(upscaler, jobs, progress=progress, note=progress.note, **settings):
                report[kind].append(entry)
                progress.outcome(kind, entry)
                if prints and kind == "done":
                    click.echo(os.fsencode(entry["output"]))  # a file's name need not be text
    except signals.Stopped as stopped:
        code = stopped.exit_code or 128 + signal.SIGTERM
        progress.note("stopped; what was written is whole, and the same command goes on.")
    progress.end(report)
    if as_json:
        click.echo(json.dumps(report))
    return code or (1 if report["failed"] else 0)


def _foresee(upscaler, jobs, options: dict, progress, *, overwrite: bool, as_json: bool) -> int:
    """Print what each size of picture takes, and all of them."""
    from tadsr_jax.upscale import folder

    tasks, known = folder.survey(upscaler, jobs, options=options, overwrite=overwrite)
    report = {"plan": [], "failed": [], "skipped": []}
    for kind, entry in known:
        report[kind].append(entry)
        progress.outcome(kind, entry)
    planned = {key: value for key, value in options.items() if key not in ("seed", "color_fix")}
    by_size = collections.defaultdict(list)
    for task in tasks:
        by_size[task.size].append(task)
    for (height, width), group in by_size.items():
        try:
            plan = upscaler.plan(height, width, **planned)
        except Exception as error:  # one size that the device cannot do says nothing of the others
            for task in group:
                known = folder.failure(task.job, error, size=task.size)
                report["failed"].append(known[1])
                progress.outcome(*known)
            continue
        if not as_json:
            click.echo(f"{len(group)} of {width}x{height}: {plan}")
        output = list(plan.output[::-1])
        entry = {"size": [width, height], "pictures": len(group), "output": output, "tiles": plan.tiles}
        report["plan"].append(entry | {"memory_bytes": plan.memory_bytes, "seconds": plan.seconds})
    _tell_totals(report, as_json=as_json)
    return 1 if report["failed"] else 0


def _tell_totals(report: dict, *, as_json: bool) -> None:
    """The last line of a dry run. The time is unknown where that of one size is."""
    plans = report["plan"]
    is_known = all(entry["seconds"] is not None for entry in plans)
    seconds = sum(entry["pictures"] * entry["seconds"] for entry in plans) if is_known else None
    memory = max((entry["memory_bytes"] for entry in plans), default=0)
    if as_json:
        click.echo(json.dumps(report | {"memory_bytes": memory, "seconds": seconds}))
        return
    time = f"in about {clock(seconds)}" if is_known else "(time unknown)"
    count = sum(entry["pictures"] for entry in plans)
    click.echo(
        f"{count} picture{'s' * (count != 1)} {time} and {memory / 2**30:.2f} GiB; "
        f"{len(report['skipped'])} skipped, {len(report['failed'])} failed."
    )
