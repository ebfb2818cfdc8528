"""tadsr convert: a thin door over `convert.public`."""

import json
import os
from pathlib import Path

import click

from tadsr_jax.cli import refusing

RESSHIFT = "resshift"  # the public layout that ResShift, SinSR and TAD-SR share


def _presets() -> str:
    """The names of the releases in lines, for the help text."""
    import textwrap

    from tadsr_jax.convert.presets import PRESETS

    lines = textwrap.wrap(", ".join(PRESETS), 100, break_on_hyphens=False)
    return "\n".join(["\b", "Presets:", *(f"  {line}" for line in lines)])


@click.command(
    "convert",
    short_help="Public PyTorch weights to a bundle, and back.",
    epilog=_presets(),
)
@click.argument("source", required=False, metavar="SOURCE")
@click.option("--unet", type=click.Path(), metavar="FILE", help="Weights of the U-Net: .pth, .ckpt or .safetensors.")
@click.option("--autoencoder", type=click.Path(), metavar="FILE", help="Weights of its VQ autoencoder.")
@click.option(
    "--preset", metavar="NAME", show_default="as the U-Net's file is called", help="The public release, see below."
)
@click.option(
    "--config",
    type=click.Path(),
    metavar="FILE",
    help="JSON with the public arguments instead of a preset: diffusion, eta_start_cap, unet, autoencoder.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    metavar="N",
    show_default="the release's",
    help="Steps that the bundle samples with, up to those it was trained with.",
)
@click.option(
    "--sampler",
    type=click.Choice(["deterministic", "stochastic"]),
    show_default="the release's",
    help="How the bundle samples in several steps.",
)
@click.option("--to", type=click.Choice(["torch"]), help="The way back: write a network of SOURCE for PyTorch.")
@click.option(
    "--part",
    metavar="NAME",
    help="Which network: student or autoencoder of a bundle; also ema and discriminator of a training run.",
)
@click.option("--step", type=click.IntRange(0), metavar="N", show_default="the latest", help="Checkpoint of a run.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="BUNDLE|FILE",
    help="Folder of the new bundle; with --to torch, a .safetensors or .pth file.",
)
@click.option("--list", "listed", type=click.Path(), metavar="FILE", help="Only list what a weights file holds.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle or the file at the output.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one object.")
@refusing()
def command(source, to, part, step, output, listed, overwrite, as_json, **model):
    """Make a bundle of public PyTorch weights, or write a network as a file for PyTorch.

    \b
    Examples:
      tadsr convert resshift --unet SinSR_v2.pth --autoencoder autoencoder_vq_f4.pth -o sinsr
      tadsr convert resshift --unet my.pth --autoencoder vq.safetensors --config my.json -o mine
      tadsr convert runs/x4/bundle --to torch --part student -o student.safetensors
      tadsr convert runs/x4 --to torch --part discriminator -o discriminator.pth
    \b
    SOURCE is the word resshift (weights of ResShift, SinSR or TAD-SR, which share one layout), or the folder of a
    bundle or of a training run. Reads files with or without state_dict, params, params_ema around the weights and
    with module. and _orig_mod. before their names; nothing in a file is ever executed. Half precision stays half
    precision. Files for PyTorch hold the public names and constant buffers, so that load_state_dict(strict=True)
    takes them; networks without a public counterpart have the names of our paths. Exit code 2 for whatever is wrong.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed, and an accelerator may be busy elsewhere
    forwards = {f"--{name}": value for name, value in model.items()}
    backwards = {"--part": part, "--step": step}
    if listed is not None:
        _refuse("--list", {**forwards, **backwards, "SOURCE": source, "--to": to, "-o": output})
        return _list(listed, as_json)
    if source is None:
        raise click.UsageError(f"no SOURCE; expected {RESSHIFT}, or the folder of a bundle or of a training run.")
    if output is None:
        raise click.UsageError("no -o; expected the bundle's folder, or with --to torch the file to write.")
    if to is None:
        if source != RESSHIFT:
            raise click.UsageError(f"SOURCE is {source!r}; expected {RESSHIFT}, or a folder with --to torch.")
        _refuse(f"SOURCE {RESSHIFT}", backwards)
        if model["unet"] is None:
            raise click.UsageError("no --unet; expected the file with the weights of the U-Net.")
        from tadsr_jax.convert import public

        report = public.resshift(**model, output=output, overwrite=overwrite)
        lines = _about_bundle(report)
    else:
        _refuse("--to torch", forwards)
        report = _to_torch(Path(source), part, step, output, overwrite=overwrite)
        lines = _about_file(report)
    click.echo(json.dumps(report, indent=1) if as_json else "\n".join(lines))


def _refuse(what: str, options: dict) -> None:
    """Usage error where an option is given that `what` leaves without effect."""
    if given := [name for name, value in options.items() if value is not None]:
        raise click.UsageError(f"{', '.join(given)} cannot go with {what}.")


def _to_torch(source: Path, part: str | None, step: int | None, output: str, *, overwrite: bool) -> dict:
    """Write the part; the report."""
    from tadsr_jax import bundles
    from tadsr_jax.convert import public

    if not source.is_dir():
        raise click.UsageError(f"SOURCE {source} is no folder; expected that of a bundle or of a training run.")
    if bundles.is_bundle(source):
        if step is not None:
            raise click.UsageError("--step belongs to a training run; a bundle holds one state.")
        _check_part(source, part, bundles.describe(source)["networks"])
        module, params = bundles.load_network(source, part)
        variables = {"params": params}
    else:
        from tadsr_jax.job.saved import saved

        parts = _parts_of(saved(source, step=step))
        _check_part(source, part, parts)
        module, variables = parts[part]
    return {"source": str(source), "part": part} | public.write(output, variables, module=module, overwrite=overwrite)


def _check_part(source: Path, part: str | None, parts) -> None:
    if part not in parts:
        said = "no --part" if part is None else f"--part is {part!r}"
        raise click.UsageError(f"{said}; the networks of {source} are {', '.join(parts)}.")


def _parts_of(run) -> dict:
    """{name: (module where it is known, variables)} of a training run's state."""
    denoiser = run.family.networks["denoiser"]
    parts = {
        name: (denoiser if name == "student" else None, {"params": params, **run.state.stats.get(name, {})})
        for name, params in run.state.params.items()
    }
    return parts | {
        "ema": (denoiser, {"params": run.state.ema}),
        **{name: (run.family.networks[name], {"params": params}) for name, params in run.fixed.items()},
    }


def _about_bundle(report: dict) -> list[str]:
    title = report.get("preset", "model")
    lines = [f"{title}: x{report['scale']}, {report['steps']} step(s), {report['sampler']}"]
    for name, network in report["networks"].items():
        lines += [
            f"{name}: {network['parameters']:,} parameters in {network['tensors']} tensors, {network['dtype']}",
            f"  {network['source']}  SHA-256 {network['source_sha256']}",
            f"  {network['file']}  SHA-256 {network['sha256']}, of the weights {network['tree_sha256']}",
        ]
    lines += [f"note: {note}" for note in report["notes"]]
    return [*lines, f"-> {report['bundle']}; next: {report['next']}"]


def _about_file(report: dict) -> list[str]:
    what = f"{report['parameters']:,} parameters in {report['tensors']} tensors, {report['dtype']}"
    constants = f", and {report['buffers']} constant buffers" if report["buffers"] else ""
    network = f" ({report['network']})" if report["network"] else ""
    return [
        f"{report['part']} of {report['source']}{network}: {what}{constants}",
        *(f"note: {note}" for note in report["notes"]),
        f"-> {report['file']}  SHA-256 {report['sha256']}",
    ]


def _list(path: str, as_json: bool) -> None:
    """Print name, shape and type of everything in a weights file."""
    from tadsr_jax.convert import torch_file

    arrays = torch_file.read(path)
    entries = {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in arrays.items()}
    if as_json:
        return click.echo(json.dumps(entries, indent=1))
    for name, entry in entries.items():
        click.echo(f"{torch_file.printable(name)}  {'x'.join(map(str, entry['shape'])) or '()'}  {entry['dtype']}")
