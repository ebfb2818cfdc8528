"""How good a model is, in numbers and pictures: figures while it trains, and the report at the end.

sample       pictures of a model, with noise fixed by a seed        scores    metrics of pictures against the truth
comparison   one PNG: LQ | bicubic | teacher | student | HR         report    what report.json says
All figures are of 8-bit pictures, border 0; definitions in `evaluate.metrics`.
"""

from functools import partial

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tadsr_jax import images
from tadsr_jax.evaluate import metrics
from tadsr_jax.types import Family

SCORES = {
    "psnr_y": metrics.psnr_y,
    "ssim_y": metrics.ssim_y,
    "gmsd": metrics.gmsd,
    "spectrum_error": metrics.spectrum_error,
}


_NOISE = 1


class Sampler:
    """A family's `sample`, compiled once a shape and number of steps, for pairs of `data.validation_pairs`.

    texts   those of the model's bundle: what is told of a picture is what the model's user would have it told
    """

    def __init__(self, family: Family, pairs: list[dict], *, seed: int = 0, texts: dict[str, str] | None = None):
        self._family, self._pairs, self._seed, self._texts = family, pairs, seed, texts or {}
        self._sample = jax.jit(family.sample, static_argnames=("steps", "stochastic"))

    def noise(self, index: int, *, draws: tuple[int, ...] = ()) -> np.ndarray:
        """The latent noise of picture `index`, (1, *draws, h, w, c): a function of the seed and the index alone."""
        shape = (1, *draws, *self._family.latent(*self._pairs[index]["lq"].shape[:2]))
        # The tag keeps it apart from the generator that degraded the picture.
        return np.random.default_rng([self._seed, index, _NOISE]).standard_normal(shape, np.float32)

    def __call__(self, denoiser, fixed: dict, *, steps: int) -> list[np.ndarray]:
        """8-bit pictures (s h, s w, 3) of all pairs; `fixed` holds the parameters of the other networks, by name."""
        params = {"student": denoiser, **fixed}
        stochastic = steps > 1 and self._family.sampler == "stochastic"
        draws = (steps + 1,) if stochastic else ()
        request = self._family.request(self._texts, steps=steps) if self._family.request else None
        pictures = []
        for index, pair in enumerate(self._pairs):
            noise = self.noise(index, draws=draws)
            told = self._family.prepare(params, request, pair["lq"]) if self._family.prepare else {}
            extra = {name: array[None] for name, array in told.items()}
            image = self._sample(params, pair["lq"][None], noise, steps=steps, stochastic=stochastic, extra=extra)
            pictures.append(_levels(np.asarray(image[0])))
        return pictures


def bicubic(pairs: list[dict], scale: int) -> list[np.ndarray]:
    """The pairs' lq enlarged as the diffusion's own start is (PyTorch's bicubic), 8 bit."""
    enlarged = []
    for pair in pairs:
        h, w, _ = pair["lq"].shape
        enlarged.append(_levels(images.torch_resize(pair["lq"], mode="bicubic", size=(h * scale, w * scale))))
    return enlarged


def truth(pairs: list[dict]) -> list[np.ndarray]:
    return [_levels(pair["gt"]) for pair in pairs]


def mean_of(metric, pictures: list[np.ndarray], references: list[np.ndarray]) -> float:
    """Mean over pictures of the metric of each."""
    return float(np.mean([metric(picture, reference) for picture, reference in zip(pictures, references, strict=True)]))


def scores(pictures: list[np.ndarray], references: list[np.ndarray], names=tuple(SCORES)) -> dict[str, float]:
    return {name: mean_of(SCORES[name], pictures, references) for name in names}


def report(pairs: list[dict], *, scale: int, student: list, teacher: list | None, undistilled: list | None) -> dict:
    """The figures of report.json. `student`, `teacher`, `undistilled`: 8-bit pictures, in the order of the pairs.

    psnr_to_teacher   RGB PSNR to the teacher's full sampling from the same noise: of the student's one step, or few,
                      and of the teacher forced into as many ("undistilled")
    psnr_y, ssim_y, gmsd, spectrum_error   against HR: {"bicubic", "teacher", "student"}
    """
    gt = truth(pairs)
    of = {"bicubic": bicubic(pairs, scale)} | ({"teacher": teacher} if teacher else {}) | {"student": student}
    made = {
        name: {who: mean_of(metric, pictures, gt) for who, pictures in of.items()} for name, metric in SCORES.items()
    }
    if teacher:
        to_teacher = partial(mean_of, metrics.psnr_rgb, references=teacher)
        made["psnr_to_teacher"] = {
            "student": to_teacher(pictures=student),
            "undistilled": to_teacher(pictures=undistilled),
        }
    return made | {"validation": [pair["name"] for pair in pairs], "bicubic_kind": "PyTorch (a = -0.75), as in z_y"}


def comparison(columns: dict[str, list[np.ndarray]], *, size: int = 192, rows: int = 4) -> np.ndarray:
    """A sheet of pictures: a titled column a key, a row a picture, of each the `size`-pixel square in its middle."""
    rows = min(rows, min(len(pictures) for pictures in columns.values()))
    gap, head = 4, 22
    sheet = Image.new("RGB", (len(columns) * (size + gap) - gap, head + rows * (size + gap) - gap), "white")
    write = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for column, (title, pictures) in enumerate(columns.items()):
        write.text((column * (size + gap) + 2, 2), title, fill="black", font=font)
        for row, picture in enumerate(pictures[:rows]):
            h, w, _ = picture.shape
            top, left = max(h - size, 0) // 2, max(w - size, 0) // 2
            cut = Image.fromarray(picture[top : top + size, left : left + size])
            sheet.paste(cut, (column * (size + gap), head + row * (size + gap)))
    return np.asarray(sheet)


def enlarged_lq(pairs: list[dict], scale: int) -> list[np.ndarray]:
    """What the model is given, every pixel as a square."""
    return [np.kron(_levels(pair["lq"]), np.ones((scale, scale, 1), np.uint8)) for pair in pairs]


def _levels(picture: np.ndarray) -> np.ndarray:
    """[-1, 1] -> uint8."""
    return images.to_uint8(images.from_signed(picture))
