"""One example: choose a usable picture, cut it, flip it, degrade it.

Example          what grain runs for each index: (index, generator) -> a training pair
emptied          words, or none, for models that learn to do without
centre_crop      the cut of validation pictures            nothing_usable   the message when a source has none
Crops are those of the public trainers (BasicSR's `realesrgan_dataset.py`); order of draws: replacement pictures where
needed, flips, crop, degradation, words; so pictures are the same with words and without.
"""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np

from tadsr_jax import degrade, images
from tadsr_jax.data import sources
from tadsr_jax.tokenizer import Tokenizer

_REPORTS = 8  # unusable pictures that one example can report; a batch reports many
_ATTEMPTS = 1000  # pictures looked at before a source is held to have none


@dataclasses.dataclass
class Example:
    """From a picture's index to one training pair; what grain runs in its workers.

    (i, rng) -> {"lq": (gt_size/scale, ., 3), "gt": (gt_size, ., 3)} in [-1, 1], and "unusable": indices of
    pictures that had to be replaced, -1 where there are none. Prepared folders give lq and "tch" in the size of gt;
    with a tokenizer there are "tokens" (length,) too, those of no words where the source has none.
    """

    source: sources.Source
    gt_size: int
    scale: int
    degradation: dict
    hflip: bool = True
    rot: bool = False
    rescale_gt: bool = True
    min_size: int = 2
    tokenizer: Tokenizer | None = None
    null_text_ratio: float = 0.5

    def __post_init__(self):
        self._reasons: dict[int, str] = {}  # of the pictures found unusable by this process: not opened again

    def __call__(self, i: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        picture, unusable = self._usable_picture(int(i), rng)
        pair = self._crop(picture, rng)
        if "lq" not in pair:
            lq, gt = degrade.degrade(pair["gt"], rng, scale=self.scale, **self.degradation)
            pair = {"lq": lq, "gt": gt}
        example = {key: images.to_signed(image) for key, image in pair.items()}
        if self.tokenizer is not None:
            words = emptied(picture.get("words", ""), rng, null_text_ratio=self.null_text_ratio)
            example["tokens"] = self.tokenizer(words)
        reports = np.full(_REPORTS, -1, np.int64)
        reports[: len(unusable[:_REPORTS])] = unusable[:_REPORTS]
        return example | {"unusable": reports}

    def _usable_picture(self, i: int, rng: np.random.Generator) -> tuple[sources.Picture, list[int]]:
        """Picture i, or a random other one in its place; and the indices of those that could not be used."""
        unusable = []
        for index in self._candidates(i, rng):
            if index not in self._reasons:
                try:
                    return self.read(index), unusable
                except ValueError as error:
                    self._reasons[index] = str(error)
            unusable.append(index)
        raise ValueError(nothing_usable(self.source.place, [self._reasons[index] for index in unusable]))

    def _candidates(self, i: int, rng: np.random.Generator) -> Iterator[int]:
        """i, then others from the example's own generator, so that any worker comes to the same one."""
        yield i
        total = len(self.source)
        for other in rng.choice(total, min(total, _ATTEMPTS), replace=False):
            if other != i:
                yield int(other)

    def read(self, index: int) -> sources.Picture:
        """Picture `index`; ValueError says why it cannot be used."""
        picture = self.source.read(index)
        # Mirroring would shift lq against gt, so a pair has to have the full size.
        key, smallest = ("gt_size", self.gt_size) if "lq" in picture else ("min_size", self.min_size)
        check_size(picture["gt"], smallest, self.source.name(index), f"config.data.{key}")
        return picture

    def _crop(self, picture: sources.Picture, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A random square of gt, float32 in [0, 1], and the same square of lq and tch where the picture has them.

        With `rescale_gt` as the public trainers do it: the square is as large as the picture allows, then reduced to
        `gt_size` by area. Pictures smaller than `gt_size` are mirrored at the bottom and right until they suffice.
        """
        flips = rng.random(3) < 0.5
        pair = {key: self._flip(picture[key], flips) for key in ("lq", "gt", "tch") if key in picture}
        gt = pair["gt"]
        if "lq" in pair:  # cut at whole lq pixels
            height, width = pair["lq"].shape[:2]
            side = self.gt_size * height // len(gt)
            top, left = (int(rng.integers(length - side + 1)) for length in (height, width))
            squares = {key: _square(image, top, left, side, len(image) // height) for key, image in pair.items()}
            return {key: images.to_float(square) for key, square in squares.items()}
        side = max(min(gt.shape[:2]), self.gt_size) if self.rescale_gt else self.gt_size
        gt = _mirror_up_to(gt, side)
        top, left = (int(rng.integers(length - side + 1)) for length in gt.shape[:2])
        gt = images.to_float(_square(gt, top, left, side))
        if side != self.gt_size:
            gt = cv2.resize(gt, (self.gt_size, self.gt_size), interpolation=cv2.INTER_AREA)
        return {"gt": gt}

    def _flip(self, image: np.ndarray, flips: np.ndarray) -> np.ndarray:
        if self.hflip and flips[0]:
            image = image[:, ::-1]
        if self.rot and flips[1]:
            image = image[::-1]
        if self.rot and flips[2]:
            image = image.swapaxes(0, 1)
        return image


def _square(image: np.ndarray, top: int, left: int, side: int, unit: int = 1) -> np.ndarray:
    """A square of the image, measured in units of so many pixels."""
    top, left, side = top * unit, left * unit, side * unit
    return image[top : top + side, left : left + side]


def check_size(gt: np.ndarray, smallest: int, name: str, key: str) -> None:
    """ValueError where a picture is smaller than `key` asks for."""
    if min(gt.shape[:2]) < smallest:
        raise ValueError(f"{name}: too small ({gt.shape[0]}x{gt.shape[1]}, {key} needs {smallest}).")


def _mirror_up_to(image: np.ndarray, side: int) -> np.ndarray:
    """Reflect (edge pixel not repeated) at the bottom and right until both sides reach `side`, in passes if need be."""
    while min(image.shape[:2]) < side:
        bottom, right = (min(max(0, side - n), n - 1) for n in image.shape[:2])
        image = np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="reflect")
    return image


def emptied(words: str, rng: np.random.Generator, *, null_text_ratio: float) -> str:
    """`words`, or "" with probability `null_text_ratio`: a model learns to do without, which guidance needs.

    One draw. An example's generator is a function of the seed and the example's number, and so is this.
    """
    return "" if rng.random() < null_text_ratio else words


def nothing_usable(place: str, reasons: list[str]) -> str:
    """'/x: no usable picture; 12 files looked at, 9 no picture, 3 too small. The first: ...'"""
    kinds = ("no picture", "damaged or truncated", "too small", "cannot be read", "expected a ratio")
    counts = {kind: sum(kind in reason for reason in reasons) for kind in kinds}
    other = len(reasons) - sum(counts.values())
    parts = [f"{count} {kind}" for kind, count in (*counts.items(), ("otherwise unusable", other)) if count > 0]
    return f"{place}: no usable picture; {len(reasons)} looked at, {', '.join(parts)}. The first: {reasons[0]}"


def centre_crop(image: np.ndarray, side: int | None, multiple: int) -> np.ndarray:
    """A centred crop, its sides `side`, or the largest multiples; it starts at a multiple, so that lq and gt agree."""
    height, width = (side or n // multiple * multiple for n in image.shape[:2])
    top, left = ((n - m) // 2 // multiple * multiple for n, m in zip(image.shape[:2], (height, width)))
    return image[top : top + height, left : left + width]
