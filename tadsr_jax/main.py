"""Train: python -m tadsr_jax.main --config=configs/x4.py:small --workdir=runs/small

Trains what the config says, or goes on with it: the same command resumes a workdir. At the end WORKDIR holds

    bundle/          the model: averaged student, autoencoder, config, checksums      comparison.png   what it does
    report.json      how well                                                         metrics.jsonl    how it came to it
    checkpoints/     the latest states                                                tensorboard/     the same, to look at
    teacher/         all of this for the teacher, where the config trains it first

Any number of the config can be changed: behind the variant (`:small,steps=200`), or by path (--config.train.steps=200).
Exit codes: 0 done, or stopped by SIGTERM and saved; 1 the training failed; 2 the command or the config is wrong.
"""

import logging
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "the config file, and behind a colon its variant", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the run; made if missing, gone on with if not")


def parse(argv: list[str]) -> list[str]:
    """absl's parser, with one line and exit code 2 for whatever a person can get wrong."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise ValueError(f"{rest[1]!r} is no option; expected --config=FILE.py[:VARIANT] and --workdir=FOLDER.")
        for name, flag in (("config", CONFIG), ("workdir", WORKDIR)):
            if flag.value is None:
                raise ValueError(f"--{name} is missing; try --config=configs/x4.py:small --workdir=runs/small.")
    except (flags.Error, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        _refuse(error)
    return rest


def _refuse(error: Exception) -> None:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def main(_) -> None:
    # The rest of the house is imported late: a typing error is told at once.
    from tadsr_jax import job, train

    logging.getLogger("absl").setLevel(logging.WARNING)
    try:
        read = job.read(CONFIG.value)
        workdir = Path(WORKDIR.value)
        if workdir.exists() and not workdir.is_dir():
            raise ValueError(f"--workdir is {workdir}, which is a file; expected a folder, or a name for a new one.")
    except ValueError as error:
        _refuse(error)
    print(job.overview(read), file=sys.stderr)
    try:
        job.run(read, workdir)
    except train.Stopped as stopped:
        print(stopped, file=sys.stderr)
    except (train.Diverged, train.NoData, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
