"""tadsr export: a thin door over `export.export`."""

import os

import click

from tadsr_jax.cli import refusing


@click.command("export", short_help="A training run to a bundle, an Orbax tree or StableHLO.")
@click.argument("source", required=False, metavar="[WORKDIR|BUNDLE]")
@click.option("--workdir", metavar="FOLDER", help="The folder of a training run; another way to name it.")
@click.option("--bundle", metavar="FOLDER", help="A bundle; another way to name it.")
@click.option("-o", "--output", metavar="FOLDER", help="The folder to make; required.")
@click.option(
    "-f",
    "--format",
    type=click.Choice(["bundle", "orbax", "stablehlo"]),
    default="bundle",
    show_default=True,
    help="bundle: what `tadsr upscale` reads; orbax: the parameters, for other JAX programs; stablehlo: the whole "
    "computation, to run with jax alone on cpu, cuda and tpu.",
)
@click.option(
    "--step", type=click.IntRange(0), help="Of a workdir: which checkpoint, 0 or more.  [default: the latest]"
)
@click.option(
    "--weights",
    type=click.Choice(["ema", "raw"]),
    default="ema",
    show_default=True,
    help="Of a workdir: the averaged student, as in the run's own bundle, or the student itself.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
def command(source, workdir, bundle, output, **options):
    """A trained model for others: from a training run's folder, or from a bundle.

    \b
    Example:
      tadsr export --workdir=runs/small --output=exported
      tadsr export runs/small -o program --format stablehlo
    """
    with refusing():
        named = [place for place in (source, workdir, bundle) if place]
        if len(named) != 1:
            found = f"{' and '.join(named)} are named" if named else "nothing is named"
            raise ValueError(f"{found} to be exported; expected one workdir or bundle: --workdir=runs/small.")
        if not output:
            raise ValueError("--output is missing; try --output=exported.")
        # Nothing heavy is computed, and an accelerator may be busy with the very run that is exported.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        from tadsr_jax.export import export

        click.echo(export(named[0], output, **options))
