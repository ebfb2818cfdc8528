"""tadsr convert: a thin door over `convert.public` and `convert.seesr`."""

import json
import os
from pathlib import Path

import click

from tadsr_jax.cli import refusing

# Public layouts, which are families of models, and the options that each has; the first one is needed.
LAYOUTS = {
    "resshift": ("unet", "autoencoder", "preset", "config", "steps", "sampler"),
    "seesr": ("model", "sd", "ram", "dape", "tags", "thresholds", "preset", "steps"),
}
NEEDED = {
    "resshift": "the file with the weights of the U-Net",
    "seesr": "the folder with unet/ and controlnet/ of SeeSR, AddSR or TAD-SeeSR",
}
A_FOLDER = "the folder of a bundle or of a training run"


def _presets() -> str:
    """The names of the releases in lines, for the help text."""
    import textwrap

    from tadsr_jax.convert import presets, seesr_presets

    lines = textwrap.wrap(", ".join(presets.PRESETS), 100, break_on_hyphens=False)
    lines = ["Presets of resshift:", *(f"  {line}" for line in lines)]
    return "\n".join(["\b", *lines, "Presets of seesr:", f"  {', '.join(seesr_presets.PRESETS)}"])


@click.command(
    "convert",
    short_help="Public PyTorch weights to a bundle, and back.",
    epilog=_presets(),
)
@click.argument("source", required=False, metavar="SOURCE")
@click.option("--unet", type=click.Path(), metavar="FILE", help="Weights of the U-Net: .pth, .ckpt or .safetensors.")
@click.option("--autoencoder", type=click.Path(), metavar="FILE", help="Weights of its VQ autoencoder.")
@click.option(
    "--config",
    type=click.Path(),
    metavar="FILE",
    help="JSON with the public arguments instead of a preset: diffusion, eta_start_cap, unet, autoencoder.",
)
@click.option(
    "--sampler",
    type=click.Choice(["deterministic", "stochastic"]),
    show_default="the release's",
    help="How the bundle samples in several steps.",
)
@click.option("--model", type=click.Path(), metavar="FOLDER", help="unet/ and controlnet/; it may hold all the parts.")
@click.option(
    "--sd", type=click.Path(), metavar="FOLDER", help="Stable Diffusion 2: vae/, text_encoder/, scheduler/, tokenizer/."
)
@click.option("--ram", type=click.Path(), metavar="FILE", help="The tagger: ram_swin_large_14m.pth.")
@click.option("--dape", type=click.Path(), metavar="FILE", help="What SeeSR changed of it: DAPE.pth.")
@click.option("--tags", type=click.Path(), metavar="FILE", help="Its tags, one a line: ram_tag_list.txt.")
@click.option(
    "--thresholds", type=click.Path(), metavar="FILE", help="A number for each tag: ram_tag_list_threshold.txt."
)
@click.option(
    "--preset", metavar="NAME", show_default="as the file or folder is called", help="The public release, see below."
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    metavar="N",
    show_default="the release's",
    help="Steps that the bundle samples with, up to those it was trained with.",
)
@click.option(
    "--to",
    type=click.Choice(["torch", "diffusers"]),
    help="The way back: write a network of SOURCE for PyTorch, or all of seesr's as a folder of diffusers.",
)
@click.option(
    "--part",
    metavar="NAME",
    help="Which network: student, autoencoder, ... of a bundle; also ema and discriminator of a training run.",
)
@click.option("--step", type=click.IntRange(0), metavar="N", show_default="the latest", help="Checkpoint of a run.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="BUNDLE|FILE|FOLDER",
    help="Folder of the new bundle; with --to torch, a .safetensors or .pth file; with --to diffusers, a folder.",
)
@click.option("--list", "listed", type=click.Path(), metavar="FILE", help="Only list what a weights file holds.")
@click.option("--overwrite", is_flag=True, help="Replace what is at the output, if it is the same kind of thing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one object.")
@refusing()
def command(source, to, part, step, output, listed, overwrite, as_json, **given):
    """Make a bundle of public PyTorch weights, or write a bundle's as files for PyTorch.

    \b
    Examples, ResShift, SinSR and TAD-SR:
      tadsr convert resshift --unet SinSR_v2.pth --autoencoder autoencoder_vq_f4.pth -o sinsr
      tadsr convert resshift --unet my.pth --autoencoder vq.safetensors --config my.json -o mine
    SeeSR, AddSR and TAD-SeeSR:
      tadsr convert seesr --model AddSR/ --sd stable-diffusion-2-base/ --ram ram_swin_large_14m.pth
          --dape DAPE.pth --tags ram_tag_list.txt --thresholds ram_tag_list_threshold.txt -o addsr
      tadsr convert addsr --to diffusers -o addsr-folder
      tadsr convert seesr --model addsr-folder/ -o again
    The way back, also of a training run:
      tadsr convert runs/x4/bundle --to torch --part student -o student.safetensors
      tadsr convert runs/x4 --to torch --part discriminator -o discriminator.pth
    \b
    SOURCE is the word resshift (--unet, --autoencoder, --config, --sampler), the word seesr (--model, --sd, --ram,
    --dape, --tags, --thresholds), or the folder of a bundle or of a training run. Reads files with or without
    state_dict, params, params_ema around the weights and with module. and _orig_mod. before their names, and
    folders of diffusers with .safetensors or .bin, in shards too; nothing in a file is ever executed. Half
    precision stays half precision. Files for PyTorch hold the public names and constant buffers, so that
    load_state_dict(strict=True) takes them; networks without a public counterpart have the names of our paths.
    Exit code 2 for whatever is wrong.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed, and an accelerator may be busy elsewhere
    backwards = {"part": part, "step": step}
    if listed is not None:
        _refuse("--list", _flags(given | backwards | {"to": to}) | {"SOURCE": source, "-o": output})
        return _list(listed, as_json)
    if source is None:
        raise click.UsageError(f"no SOURCE; expected {', '.join(LAYOUTS)}, or {A_FOLDER}.")
    if output is None:
        raise click.UsageError("no -o; expected the bundle's folder, or with --to the file or folder to write.")
    if to is None:
        report = _from_public(source, given, backwards, output, overwrite=overwrite)
        lines = _about_bundle(report)
    elif to == "diffusers":
        _refuse("--to diffusers", _flags(given | backwards))
        report = _to_diffusers(Path(source), output, overwrite=overwrite)
        lines = _about_folder(report)
    else:
        _refuse("--to torch", _flags(given))
        report = _to_torch(Path(source), part, step, output, overwrite=overwrite)
        lines = _about_file(report)
    click.echo(json.dumps(report, indent=1) if as_json else "\n".join(lines))


def _refuse(what: str, options: dict) -> None:
    """Usage error where an option is given that `what` leaves without effect."""
    if given := [name for name, value in options.items() if value is not None]:
        raise click.UsageError(f"{', '.join(given)} cannot go with {what}.")


def _flags(options: dict) -> dict:
    """The options as they are typed."""
    return {f"--{name}": value for name, value in options.items()}


def _from_public(layout: str, given: dict, backwards: dict, output: str, *, overwrite: bool) -> dict:
    """Make the bundle; the report."""
    if layout not in LAYOUTS:
        raise click.UsageError(
            f"SOURCE is {layout!r}; expected {', '.join(LAYOUTS)}, or a folder with --to torch or --to diffusers."
        )
    options = {name: given[name] for name in LAYOUTS[layout]}
    others = {name: value for name, value in given.items() if name not in options}
    _refuse(f"SOURCE {layout}", _flags(backwards | others))
    needed = LAYOUTS[layout][0]
    if options[needed] is None:
        raise click.UsageError(f"no --{needed}; expected {NEEDED[layout]}.")
    if layout == "resshift":
        from tadsr_jax.convert.public import resshift as convert
    else:
        from tadsr_jax.convert.seesr import seesr as convert
    return convert(**options, output=output, overwrite=overwrite)


def _to_diffusers(source: Path, output: str, *, overwrite: bool) -> dict:
    """Write the folder; the report."""
    from tadsr_jax.convert.seesr_folder import to_diffusers

    if not source.is_dir():
        raise click.UsageError(f"SOURCE {source} is no folder; expected {A_FOLDER}.")
    return to_diffusers(source, output, overwrite=overwrite)


def _to_torch(source: Path, part: str | None, step: int | None, output: str, *, overwrite: bool) -> dict:
    """Write the part; the report."""
    from tadsr_jax import bundles
    from tadsr_jax.convert import public

    if not source.is_dir():
        raise click.UsageError(f"SOURCE {source} is no folder; expected {A_FOLDER}.")
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
    from tadsr_jax.job.saved import whole_student

    denoiser, learnt = run.family.networks["denoiser"], run.state.params
    whole = lambda params: whole_student(run.recipe, run.rest, params)
    return {
        "student": (denoiser, {"params": whole(learnt["student"])}),
        **{
            name: (None, {"params": params, **run.state.stats.get(name, {})})
            for name, params in learnt.items()
            if name != "student"
        },
        "ema": (denoiser, {"params": whole(run.state.ema)}),
        **{name: (run.family.networks[name], {"params": params}) for name, params in run.fixed.items()},
    }


def _about_bundle(report: dict) -> list[str]:
    title = report.get("preset", "model")
    lines = [f"{title}: x{report['scale']}, {report['steps']} step(s), {report['sampler']}"]
    for name, network in report["networks"].items():
        sources = network.get("sources") or {network["source"]: network["source_sha256"]}
        lines += [
            f"{name}: {network['parameters']:,} parameters in {network['tensors']} tensors, {network['dtype']}",
            *(f"  {file}  SHA-256 {digest}" for file, digest in sources.items()),
            f"  {network['file']}  SHA-256 {network['sha256']}, of the weights {network['tree_sha256']}",
        ]
    lines += [f"note: {note}" for note in report["notes"]]
    return [*lines, f"-> {report['bundle']}; next: {report['next']}"]


def _about_folder(report: dict) -> list[str]:
    lines = []
    for name, part in report["parts"].items():
        lines.append(f"{name}: {part['parameters']:,} parameters in {part['tensors']} tensors, {part['dtype']}")
        lines += [f"  {file}  SHA-256 {digest}" for file, digest in part["files"].items()]
    return [*lines, f"-> {report['folder']}; next: {report['next']}"]


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
