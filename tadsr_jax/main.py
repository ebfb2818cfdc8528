"""Train: python -m tadsr_jax.main --config=configs/x4.py:small --workdir=runs/small

Trains what the config says, or goes on with it: the same command resumes a workdir. At the end WORKDIR holds

    bundle/        the model: averaged student, autoencoder, config, checksums    comparison.png   what it does
    report.json    how well                                                       metrics.jsonl    how it came to it
    checkpoints/   the latest states                                              tensorboard/     the same, to look at
    config.json    what the run was begun with
    teacher/       all of this for the teacher, where the config trains it first

Any number of the config can be changed: behind the variant (`:small,steps=200`), or by path (--config.train.steps=200).
Exit codes: 0 done, or stopped by SIGTERM and saved; 1 the training failed; 2 the command or the config is wrong;
130 stopped by Ctrl-C and saved.
"""

import difflib
import errno
import re
import runpy
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "the config file, and behind a colon its variant", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the run; made if missing, gone on with if not")


def parse(argv: list[str]) -> list[str]:
    """absl's parser, with one line and exit code 2 for whatever a person can get wrong."""
    try:
        _check_file(argv)
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise ValueError(f"{rest[1]!r} is no option; expected --config=FILE.py[:VARIANT] and --workdir=FOLDER.")
        for name, flag in (("config", CONFIG), ("workdir", WORKDIR)):
            if not flag.value:
                raise ValueError(f"--{name} is missing; try --config=configs/x4.py:small --workdir=runs/small.")
    except Exception as error:  # a config file is a program of the user's: anything can happen in it
        _refuse(_wrong_path(argv) or _in_own_words(error))
    return rest


def _named_config(argv: list[str]) -> list[str]:
    """[file] or [file, variant] as they stand behind --config; nothing where it is missing."""
    for word, following in zip(argv, [*argv[1:], ""]):
        if found := re.fullmatch(r"--?config(?:=(.*))?", word, re.DOTALL):
            return (following if found[1] is None else found[1]).split(":", 1)
    return []


def _check_file(argv: list[str]) -> None:
    file, *_ = _named_config(argv) or [None]
    if file is not None and not Path(file).is_file():
        raise ValueError(f"--config names {file!r}, which is no file; expected one such as configs/x4.py.")


def _wrong_path(argv: list[str]) -> str | None:
    """The first --config.SECTION.KEY that the config does not have, in words; ml_collections names KEY alone."""
    try:
        file, *variant = _named_config(argv)
        config = runpy.run_path(file)["get_config"](*variant)
    except Exception:
        return None  # there is no config to look into: then something else is wrong
    for word in argv:
        found = re.match(r"--?(?:no)?config\.([^=]+)", word)
        node, section, path = config, "config", found[1] if found else ""
        for key in filter(None, path.split(".")):
            if not isinstance(node, ConfigDict):
                return f"--config.{path}: {section} is {node!r}, no section; it has no {key!r}."
            if key not in node:
                near = difflib.get_close_matches(key, node, n=1)
                hint = f" Did you mean {section}.{near[0]}?" if near else ""
                return f"{section}.{key} is unknown; {section} has the keys {', '.join(node)}.{hint}"
            node, section = node[key], f"{section}.{key}"
    return None


def _in_own_words(error: BaseException) -> str:
    """The outermost error of a chain that is no report of another one; its kind where that is not for people."""
    while "Traceback" in str(error) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__
    is_for_people = isinstance(error, ValueError | flags.Error | OSError) and str(error)
    return str(error) if is_for_people else f"the config cannot be read: {type(error).__name__}: {error}"


def _refuse(text: object, code: int = 2) -> None:
    print(f"error: {' '.join(str(text).split())}", file=sys.stderr)
    sys.exit(code)


def main(_) -> None:
    # The rest of the house is imported late: a typing error is told at once.
    from tadsr_jax import checkpoints, job, logs, loop, signals

    logs.warn_in_lines()
    workdir = Path(WORKDIR.value)
    try:
        read = job.read(CONFIG.value)
        job.check_workdir(read, workdir)
    except (ValueError, OSError) as error:
        _refuse(error)
    try:
        with signals.stopped_at_once():
            print(job.overview(read), file=sys.stderr)
            job.run(read, workdir)
    except signals.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except checkpoints.WrongCheckpoint as error:
        _refuse(error)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        full = f"{workdir}: the disk is full; the checkpoints are whole. Make room, and the same command goes on."
        _refuse(full if is_full else error, code=1)
    except (loop.Diverged, loop.NoData) as error:
        _refuse(error, code=1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
