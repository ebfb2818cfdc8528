"""The training stream: pictures -> crops -> pairs -> batches, in worker processes; and the pairs of a validation.

training_stream    an endless, seeded iterator of {"lq", "gt", ...}; batch k is the same for any number of workers
validation_pairs   fixed crops with fixed degradations           check   everything that can be wrong, before a compile
Example k depends on (seed, k) alone, so a run resumes at batch n by starting at n: no other state is kept.
Pictures that cannot be used are replaced by others, warned of once each, and counted (`Stream.skipped`).
"""

import contextlib
import inspect
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator

import cv2
import numpy as np

from tadsr_jax import degrade, images
from tadsr_jax.data import sources
from tadsr_jax.data.examples import Example, centre_crop, check_size, nothing_usable
from tadsr_jax.tokenizer import open_tokenizer

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


# --- the stream -----------------------------------------------------------------------------------------------------


class Stream(Iterator[dict[str, np.ndarray]]):
    """An endless iterator of {"lq": (b, h, w, 3), "gt": (b, s h, s w, 3)}, float32 in [-1, 1]. Close it when done.

    Of prepared folders lq has the size of gt, as has "tch", where there is one. With a tokenizer: "tokens" (b, length).
    """

    def __init__(self, iterator, source: sources.Source, example: Example, *, has_workers: bool):
        self._iterator, self._source, self._example = iterator, source, example
        self._has_workers = has_workers
        self._unusable: set[int] = set()

    @property
    def skipped(self) -> int:
        """How many different pictures have been found unusable so far."""
        return len(self._unusable)

    def __next__(self) -> dict[str, np.ndarray]:
        with _one_thread_each() if self._has_workers else contextlib.nullcontext():
            batch = next(self._iterator)
        for index in np.unique(batch["unusable"]):
            if index >= 0 and index not in self._unusable:
                self._unusable.add(int(index))
                logging.warning("Skipped a picture: %s", self._reason(int(index)))
        # What workers send is shared memory that grain takes back: copy.
        return {key: np.array(value) for key, value in batch.items() if key != "unusable"}

    def _reason(self, index: int) -> str:
        """Why a worker could not use a picture: only its index travels, so the file is tried once more here."""
        try:
            self._example.read(index)
        except ValueError as error:
            return str(error)
        return f"{self._source.name(index)}: could not be read a moment ago."

    def close(self) -> None:
        """End the worker processes."""
        self._iterator.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_) -> None:
        self.close()


@contextlib.contextmanager
def _one_thread_each():
    """Processes started inside get one BLAS thread each, and leave accelerators alone."""
    new = dict.fromkeys(_ONE_THREAD, "1") | {"JAX_PLATFORMS": "cpu"}
    old = {key: os.environ.get(key) for key in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for key, value in old.items():
            os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)


def _start_worker(index: int, count: int) -> None:
    """What a worker does first: no threads of its own, and an end of its own when the run is gone.

    Ctrl-C and SIGTERM reach a whole process group. The run then saves and closes its workers; one that went down at
    once would look like a crash, so it lingers. If the run is killed, nobody closes it: it notices and leaves.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _leave_after(60))
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent) -> None:
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _leave_after(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


def training_stream(
    *,
    source: str,
    path: str | None = None,
    lq_path: str | None = None,
    split: str = "train",
    batch_size: int,
    gt_size: int,
    scale: int,
    degradation: dict | None = None,
    seed: int = 0,
    num_workers: int = 0,
    prefetch: int = 2,
    start: int = 0,
    hflip: bool = True,
    rot: bool = False,
    rescale_gt: bool = True,
    min_size: int | None = None,
    tokenizer: str | None = None,
    null_text_ratio: float = 0.5,
) -> Stream:
    """Batches from number `start` on; the same ones for any `num_workers`.

    `num_workers` processes hold `prefetch` batches each; with 0, two threads of this process do. `hflip`, `rot`:
    random flips; flips and transposition. `rescale_gt`: see `Example`. Pictures with a side below `min_size` (a
    quarter of `gt_size` unless given) are left out. With source='pairs', lq comes from `lq_path`, not `degradation`.

    `tokenizer`: a Stable Diffusion folder, for models that read words; the words are those of source='prepared', and
    none with other sources. `null_text_ratio`: the share of examples that lose theirs.
    """
    check(**{key: value for key, value in locals().items() if key != "start"})  # the arguments, nothing else yet
    import grain

    opened = sources.open_source(source, path, lq_path=lq_path, scale=scale, split=split)
    example = Example(
        source=opened,
        gt_size=gt_size,
        scale=scale,
        degradation=degrade.chosen(degradation),
        hflip=hflip,
        rot=rot,
        rescale_gt=rescale_gt,
        min_size=max(2, gt_size // 4) if min_size is None else min_size,
        tokenizer=open_tokenizer(tokenizer) if tokenizer else None,
        null_text_ratio=null_text_ratio,
    )
    epochs = 2**60 // len(opened)  # endless, but for lengths that must fit an index: `repeat(None)` overflows
    dataset = grain.MapDataset.range(len(opened)).seed(seed).shuffle().repeat(epochs).random_map(example)
    # Batched before it becomes an iterator, so that a batch does not depend on the number of workers.
    dataset = dataset.batch(batch_size)[start:]
    threads = grain.ReadOptions(
        num_threads=0 if num_workers else 2, prefetch_buffer_size=0 if num_workers else prefetch
    )
    dataset = dataset.to_iter_dataset(threads)
    if num_workers:
        _let_grain_read_flags()
        options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=prefetch)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
    return Stream(iter(dataset), opened, example, has_workers=num_workers > 0)


def _let_grain_read_flags() -> None:
    """Without `absl.app.run` (notebooks, tests) no flag is parsed, and grain refuses to start workers."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


# --- validation -----------------------------------------------------------------------------------------------------


def validation_pairs(
    *,
    source: str,
    path: str | None = None,
    lq_path: str | None = None,
    split: str = "validation",
    count: int,
    gt_size: int | None,
    scale: int,
    degradation: dict | None = None,
    seed: int = 0,
    multiple: int = 1,
) -> list[dict]:
    """The first `count` usable pictures: [{"name", "lq": (h, w, 3), "gt": (s h, s w, 3)}], float32 in [-1, 1].

    Centre crops of `gt_size`; with None the whole picture, cut so that the sides of lq are multiples of `multiple`.
    The degradation of picture i is drawn from (seed, i). source='demo': the photographs that training never sees.
    source='prepared': lq is reduced again, since a model is given small pictures.
    """
    opened = sources.open_source(source, path, lq_path=lq_path, scale=scale, split=split, is_training=False)
    degrade.validate(degradation or {}, scale=1 if source in sources.PAIRED else scale)
    if gt_size is not None and gt_size % (multiple * scale):
        raise ValueError(f"validation crops have gt_size={gt_size}; expected a multiple of {multiple * scale}.")
    pairs, reasons = [], []
    for i in range(len(opened)):
        if len(pairs) == count:
            break
        try:
            picture = opened.read(i)
            check_size(picture["gt"], gt_size or multiple * scale, opened.name(i), "config.validation.gt_size")
        except ValueError as error:
            logging.warning("Skipped a picture: %s", error)
            reasons.append(str(error))
            continue
        gt = centre_crop(picture["gt"], gt_size, multiple * scale)
        if "lq" in picture:
            ratio = len(picture["gt"]) // len(picture["lq"])
            lq = centre_crop(picture["lq"], gt_size and gt_size // ratio, multiple * scale // ratio)
            lq, gt = images.to_float(lq), images.to_float(gt)
            if ratio == 1 and scale > 1:  # of prepared folders: near what was enlarged, which they do not hold
                lq = np.clip(images.matlab_bicubic(lq, 1 / scale), 0, 1)
        else:
            rng = np.random.default_rng([seed, i])
            lq, gt = degrade.degrade(images.to_float(gt), rng, scale=scale, **degrade.chosen(degradation))
        name = os.path.splitext(opened.name(i))[0]
        pairs.append({"name": name, "lq": images.to_signed(lq), "gt": images.to_signed(gt)})
    if not pairs:
        raise ValueError(nothing_usable(opened.place, reasons))
    return pairs


# --- checking -------------------------------------------------------------------------------------------------------


_WHOLE = {  # key -> smallest value
    "batch_size": 1,
    "gt_size": 1,
    "scale": 1,
    "seed": 0,
    "num_workers": 0,
    "prefetch": 1,
}


def check(**config) -> None:
    """ValueError, in one line, for a `config.data` that `training_stream` would refuse or could not serve."""
    parameters = {k: p for k, p in inspect.signature(training_stream).parameters.items() if k != "start"}
    for key in config:
        if key not in parameters:
            raise ValueError(f"config.data.{key} is no setting; config.data has the keys {', '.join(parameters)}.")
    values = {key: config.get(key, parameter.default) for key, parameter in parameters.items()}
    for key, value in values.items():
        if value is inspect.Parameter.empty:
            raise ValueError(f"config.data.{key} is missing.")
    for key, smallest in _WHOLE.items():
        value = values[key]
        if type(value) is not int or value < smallest:
            raise ValueError(f"config.data.{key} is {value!r}; expected a whole number, {smallest} or more.")
    for key in ("hflip", "rot", "rescale_gt"):
        if not isinstance(values[key], bool):
            raise ValueError(f"config.data.{key} is {values[key]!r}; expected True or False.")
    for key in ("path", "lq_path", "tokenizer"):
        if not isinstance(values[key], (str, os.PathLike, type(None))):
            raise ValueError(f"config.data.{key} is {values[key]!r}; expected a path as a string, or None.")
    if values["min_size"] is not None and (type(values["min_size"]) is not int or values["min_size"] < 2):
        raise ValueError(f"config.data.min_size is {values['min_size']!r}; expected a whole number above 1, or None.")
    ratio = values["null_text_ratio"]
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
        raise ValueError(f"config.data.null_text_ratio is {ratio!r}; expected a probability from 0 to 1.")
    gt_size, scale, source = values["gt_size"], values["scale"], values["source"]
    if gt_size % scale:
        below = gt_size // scale * scale or scale
        raise ValueError(
            f"config.data.gt_size is {gt_size}, no multiple of the scale {scale}; use {below}, for example."
        )
    try:
        settings = dict(values["degradation"] or {})
    except (TypeError, ValueError):
        raise ValueError(
            f"config.data.degradation is {values['degradation']!r}; expected a dict with 'kind'."
        ) from None
    degrade.validate(settings, scale=1 if source in sources.PAIRED else scale)
    sources.check_place(source, values["path"], values["lq_path"])
    _check_tokenizer(source, values["tokenizer"])


def _check_tokenizer(source: str, tokenizer: str | None) -> None:
    """ValueError where words would find no tokenizer, or one that cannot be read."""
    if tokenizer:
        try:
            open_tokenizer(tokenizer)
        except ValueError as error:
            raise ValueError(f"config.data.tokenizer is {str(tokenizer)!r}. {error}") from None
    elif source == "prepared":
        raise ValueError(
            f"config.data.tokenizer is {tokenizer!r}; source='prepared' has words, "
            "which need the folder of a Stable Diffusion 2 model, its tokenizer/, or a bundle that has one."
        )
