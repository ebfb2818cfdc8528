"""The `tadsr` command: a door to each room that serves users; the work is done by plain functions of those rooms.

    tadsr upscale ...     = python -m tadsr_jax.upscale ...            cli/upscale.py -> upscale/
    tadsr convert ...     = python -m tadsr_jax.convert ...            cli/convert.py -> convert/
    ...                                                                COMMANDS lists all

main       the console script            refusing   a person's mistake becomes one line and exit code 2
A command's file is imported when that command is called, and imports its room when it has work to do: help is quick.
Results go to standard output, progress and notes to standard error.
"""

import contextlib
import difflib
import importlib
import sys
from importlib import metadata

import click

COMMANDS = {  # name of the command, and of its file -> what `tadsr --help` says about it
    "upscale": "Enlarge pictures: files, folders, globs.",
    "convert": "Public PyTorch weights to a bundle, and back.",
    "download": "Fetch public weights: address, licence, checksum.",
    "export": "A training run to a bundle, an Orbax tree or StableHLO.",
}
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


class _Doors(click.Group):
    """Commands that are imported when they are called; help lists them without importing any."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        return importlib.import_module(f"tadsr_jax.cli.{name}").command if name in COMMANDS else None

    def resolve_command(self, ctx, args):
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no command {args[0]!r}; expected one of {', '.join(COMMANDS)}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group("tadsr", cls=_Doors, context_settings=SETTINGS, invoke_without_command=True)
@click.version_option(metadata.version("tadsr_jax"), prog_name="tadsr", message="%(prog)s %(version)s")
@click.pass_context
def doors(ctx):
    """One-step diffusion super-resolution in JAX.

    \b
    Example:
      tadsr upscale holiday/ -o results --weights runs/small/bundle
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


@contextlib.contextmanager
def refusing():
    """What a person can cause, a ValueError or an OSError of a lower room, becomes `error: ...` and exit code 2."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output left, as in `tadsr ... | head`: nobody to tell
        sys.stdout = None
        sys.exit(1)
    except (ValueError, OSError, click.ClickException) as error:
        click.echo(f"error: {in_words(error)}", err=True)
        sys.exit(2)


def in_words(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def main(argv: list[str] | None = None, *, room: str | None = None) -> None:
    """`tadsr ARGV`; with `room`, `python -m tadsr_jax.ROOM ARGV`, which is that one command. Ends the process."""
    command, name = doors, "tadsr"
    with refusing():
        if room is not None:
            command, name = doors.get_command(None, room), f"python -m tadsr_jax.{room}"
        settings = {} if room is None else SETTINGS
        try:
            code = command.main(argv, prog_name=name, standalone_mode=False, **settings)
        except click.Abort:  # Ctrl-C where nothing better catches it
            sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
