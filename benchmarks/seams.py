"""How far tiles are from the picture computed as a whole, and what each remedy costs and brings; one table.

    python benchmarks/seams.py                                       a small Swin U-Net and VQ model, fitted in seconds
    python benchmarks/seams.py --bundle runs/small/bundle [--height 256 --width 384 --tile 128]
    python benchmarks/seams.py --figure docs/images/seams.png        the differences of some rows, amplified

Differences are in grey levels of 8 bits, before rounding. "seam" is how much of them is a line: the largest step of
the difference from one row or column of pixels to the next, as the mean over the side of a tile, so that differences
without direction cancel. Cost is work for a large picture: pixels of tiles against its own, times passes.

The model has the public architecture at two levels: windows, group norms over the map, attention over all of it, codes.
Random weights say nothing, because there every pixel depends on all others; so the last layers are fitted on packaged
photographs (`fitted`). The whole is computed at once, with attention over all of it, so keep pictures small.
"""

import argparse
import functools
import itertools
import math
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from tadsr_jax import bundles, images
from tadsr_jax.data import demo
from tadsr_jax.families import resshift
from tadsr_jax.networks.layers import Conv, GroupNorm, NormSilu
from tadsr_jax.networks.norms import Activated, statistics
from tadsr_jax.types import Bundle
from tadsr_jax.upscale import grid, noise, tiles

SETTINGS = {
    "scale": 2,
    "denoiser": {
        "kind": "swin",
        "model_channels": 128,
        "channel_mult": (1, 1),
        "num_res_blocks": 1,
        "attention_resolutions": (64, 32),
        "swin_embed_dim": 32,
        "num_head_channels": 16,
    },
    # Four channels a group, as the public ones have: with one or two, norms would take the brightness off.
    "autoencoder": {"kind": "vq", "ch": 128, "ch_mult": (1, 1), "num_res_blocks": (0, 1), "n_embed": 8192},
    "diffusion": {"num_steps": 15, "kappa": 2.0, "min_noise_level": 0.04, "etas_end": 0.99, "power": 0.3},
}


# ---- a model without a training run ----------------------------------------------------------------------------------


def fitted(*, count: int = 12, side: int = 64, seed: int = 0, **changes) -> Bundle:
    """The model of `SETTINGS`, which behaves like a trained one: it returns the photograph, and looks at what is near.

    Inner layers are random but mild (`_tame`). The last layer of each part is fitted by least squares on `lessons`:
    the encoder's, so that latents are the means of blocks of the picture; the decoder's, to give the picture back; the
    denoiser's, to give the latents of the sharp picture. The codes are latents of those pictures.
    """
    family = resshift.build(**{name: value | changes.get(name, {}) if isinstance(value, dict) else value
                               for name, value in SETTINGS.items()})  # fmt: skip
    shapes = jax.eval_shape(family.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    params = {"student": _tame(shapes["denoiser"], rng), "autoencoder": _tame(shapes["autoencoder"], rng)}
    vq, factor = family.networks["autoencoder"], family.networks["autoencoder"].factor
    sharp = lessons(count, side, rng)
    lq = _means(sharp, family.scale)

    auto = params["autoencoder"]
    encode = lambda auto: vq.apply({"params": auto}, sharp, method="encode")
    auto["quant_conv"] = {"kernel": np.eye(vq.embed_dim, dtype=np.float32)[None, None], "bias": np.zeros(3, np.float32)}
    auto["post_quant_conv"] = jax.tree.map(np.copy, auto["quant_conv"])
    auto["encoder"]["conv_out"] = _least_squares(encode, auto, ("encoder", "conv_out"), 2 * _means(sharp, factor))
    z = np.asarray(jax.jit(encode)(auto))
    auto["quantize"]["embedding"] = rng.choice(z.reshape(-1, vq.embed_dim), vq.n_embed)
    auto["quantize"]["embedding"] += _normal(rng, (vq.n_embed, vq.embed_dim), 0.05)
    decode = lambda auto: vq.apply({"params": auto}, z, method="decode")
    auto["decoder"]["conv_out"] = _least_squares(decode, auto, ("decoder", "conv_out"), sharp)

    eps = rng.standard_normal(z.shape, np.float32)

    def denoise(student):
        known = family.condition(params, lq, {})
        start = family.schedule.start(known["z_y"], eps)
        return family.predict_z0(student, start, family.schedule.num_steps - 1, known)

    params["student"]["out.2"] = _least_squares(denoise, params["student"], ("out.2",), z)
    return Bundle(family=family, params=params, info={"steps": 1, "scale": family.scale})


def lessons(count: int, side: int, rng) -> np.ndarray:
    """(count, side, side, 3) in [-1, 1]: crops of packaged photographs; every third is blended into a plane of colour.

    The planes have other statistics than photographs, and teach the last layers not to lean on those of a map.
    """
    made = []
    for number, path in zip(range(count), demo.paths(is_training=True), strict=False):
        crop = _crop(path, side, side)
        if number % 3 == 2:
            low, high = rng.uniform(-0.9, 0.9, (2, 1, 1, 3))
            along = np.linspace(0, 1, side).reshape((-1, 1, 1) if number % 2 else (1, -1, 1))
            crop = 0.05 * crop + 0.95 * (low + (high - low) * along)
        made.append(crop.astype(np.float32))
    return np.stack(made)


RESIDUAL = ("conv2", "out_layers.3", "proj", "proj_out", "mlp.fc2")  # ends of branches that are added to their input


def _tame(shapes, rng, name: str = "") -> dict:
    """Convolutions that pass their input on and add random detail; branches that add little to what they start from."""
    if "kernel" in shapes:
        return {"kernel": _kernel(shapes["kernel"].shape, rng, name), "bias": _normal(rng, shapes["bias"].shape, 1)}
    fill = lambda key, leaf: np.ones(leaf.shape, np.float32) if key == "scale" else _normal(rng, leaf.shape, 0.1)
    return {key: _tame(leaf, rng, key) if isinstance(leaf, dict) else fill(key, leaf) for key, leaf in shapes.items()}


def _kernel(shape: tuple[int, ...], rng, name: str) -> np.ndarray:
    gain = 1 / np.sqrt(np.prod(shape[:-1]))
    if len(shape) == 2 or name in RESIDUAL:
        return _normal(rng, shape, 0.3 * gain)
    size, _, inputs, outputs = shape
    passed = np.zeros((inputs, outputs), np.float32)
    for k in range(max(inputs, outputs)):
        passed[k % inputs, k % outputs] += min(outputs / inputs, 1)
    along = np.array([1, 6, 1], np.float32) / 8 if size == 3 else np.ones(1, np.float32)
    return _normal(rng, shape, 0.5 * gain) + np.multiply.outer(np.outer(along, along), passed)


def _normal(rng, shape, deviation: float) -> np.ndarray:
    return np.float32(deviation) * rng.standard_normal(shape, np.float32)


def _least_squares(function, params, path: tuple[str, ...], target) -> dict:
    """Kernel and bias of the 3x3 convolution at `path`, such that `function(params)` is nearest to `target`."""

    def features(params):
        found = []

        def record(call, args, kwargs, context):
            if isinstance(context.module, Conv) and context.module.path == path:
                found.append(args[0].whole() if isinstance(args[0], Activated) else args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            function(params)
        return found[0]

    x = np.asarray(jax.jit(features)(params), np.float64)
    h, w, c = x.shape[1:]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = np.concatenate([x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1).reshape(-1, 9 * c)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    y = np.asarray(target, np.float64).reshape(len(x), -1)
    ridge = 1e-4 * len(x) * np.eye(x.shape[1])
    solution = np.linalg.solve(x.T @ x + ridge, x.T @ y).astype(np.float32)
    return {"kernel": solution[:-1].reshape(3, 3, c, -1), "bias": solution[-1]}


def _crop(path: Path, height: int, width: int) -> np.ndarray:
    """The middle of a photograph, in [-1, 1]."""
    picture = images.read(path)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return images.to_signed(images.to_float(picture[top : top + height, left : left + width]))


def _means(picture: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks: (n, f h, f w, c) -> (n, h, w, c)."""
    n, h, w, c = picture.shape
    return picture.reshape(n, h // factor, factor, w // factor, factor, c).mean((2, 4))


# ---- the picture by tiles --------------------------------------------------------------------------------------------


class Remedy(NamedTuple):
    """How to tile; what is left out is as `tadsr_jax.upscale.grid` has it."""

    name: str
    overlap: int = grid.OVERLAP
    align: int | None = None
    shares: str = "smooth"  # or "average"
    larger: float = 1  # tiles, that many times as large
    statistics: str = "own"  # of norms; or of the "whole" picture, a "small" copy; "mean" of tiles, of "some" (a third)
    latents: bool = False  # z0 is blended too, and decoded by tiles


def remedies(multiple: int, has_norms: bool) -> list[Remedy]:
    """The rows of the table, for a network that needs multiples of this."""
    rows = [Remedy("no overlap", overlap=0, shares="average")]
    rows += [Remedy(f"overlap {n}, average", overlap=n, shares="average") for n in (8, 16, 32)]
    rows += [Remedy(f"overlap {n}, smooth", overlap=n) for n in (8, 16, 32)]
    rows += [Remedy(f"starts at {n}", align=n) for n in sorted({1, 8, 16, 32, 64, multiple}) if n <= multiple]
    rows += [Remedy("tiles x1.5", larger=1.5), Remedy("latents blended", latents=True)]
    if has_norms:
        rows += [Remedy(f"statistics: {kind}", statistics=kind) for kind in ("whole", "mean", "some", "small")]
        rows += [Remedy("whole, latents", statistics="whole", latents=True)]
    return rows


@flax.struct.dataclass
class Given(Activated):
    """silu of a norm with statistics from elsewhere, (c,) each."""

    mean: jax.Array
    rstd: jax.Array

    def whole(self):
        return self.by_pixel()(self.x)

    def by_pixel(self):
        factor, bias = ((a * jnp.ones_like(self.mean)).reshape(-1) for a in (self.rstd * self.scale, self.bias))
        return lambda part: nn.silu(((part.astype(jnp.float32) - self.mean) * factor + bias).astype(self.dtype))


class Model:
    """A bundle's one step, in parts, with the statistics of its group norms as an argument and a result."""

    def __init__(self, bundle: Bundle):
        self.family, self._params = bundle.family, jax.device_put(bundle.params)
        self._enlarge, self._decode = jax.jit(self._enlarge), jax.jit(self._decode)

    @functools.cached_property
    def own(self) -> dict:
        """Statistics that stand for none: every norm takes those of its own map."""
        side = self.family.multiple
        args = jnp.zeros((1, side, side, 3)), jnp.zeros((1, *self.family.latent(side, side)))
        found = jax.eval_shape(lambda lq, eps: self._with_statistics(self._steps, {}, self._params, lq, eps)[1], *args)
        return jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), found)

    def enlarge(self, lq, eps, given: dict | None = None):
        """(h, w, 3) and noise -> picture in grey levels, z0, and the statistics that its norms had."""
        (picture, z0), found = self._enlarge(self._params, lq[None], eps[None], given or self.own)
        return _levels(picture), np.asarray(z0[0]), jax.device_get(found)

    def decode(self, z0, given: dict | None = None):
        return _levels(self._decode(self._params, z0[None], given or self.own))

    def _steps(self, params, lq, eps):
        known = self.family.condition(params, lq, {})
        start, last = self.family.schedule.start(known["z_y"], eps), self.family.schedule.num_steps - 1
        z0 = self.family.predict_z0(params["student"], start, last, known)
        return jnp.clip(self.family.decode(params, z0), -1, 1), z0

    def _enlarge(self, params, lq, eps, given):
        return self._with_statistics(self._steps, given, params, lq, eps)

    def _decode(self, params, z0, given):
        return jnp.clip(self._with_statistics(self.family.decode, given, params, z0)[0], -1, 1)

    @staticmethod
    def _with_statistics(function, given, *args):
        """(function(*args), {norm: (mean, variance)}), with `given` where it is a number."""
        found = {}

        def normalise(call, args, kwargs, context):
            if not isinstance(context.module, GroupNorm):
                return call(*args, **kwargs)
            module, (x,), name = context.module, args, "/".join(context.module.path)
            mean, rstd = statistics(x.reshape(1, -1, x.shape[-1]), module.groups, module.epsilon)
            found[name] = jnp.stack([mean[0, 0], rstd[0, 0] ** -2 - module.epsilon])  # 2 c
            mean, var = jnp.where(jnp.isnan(given.get(name, jnp.nan)), found[name], given.get(name, found[name]))
            scale, bias = (module.get_variable("params", key) for key in ("scale", "bias"))
            rstd = jax.lax.rsqrt(var + module.epsilon)
            if isinstance(module, NormSilu):
                return Given(x, scale, bias, module.groups, module.epsilon, module.dtype, mean, rstd)
            return ((x - mean) * (rstd * scale) + bias).astype(module.dtype)

        with nn.intercept_methods(normalise):
            return function(*args), found


def _levels(picture) -> np.ndarray:
    return np.asarray(images.from_signed(picture[0])) * 255


def noise_at(model: Model, top: int, left: int, height: int, width: int) -> np.ndarray:
    """The latent noise of a rectangle of LQ pixels."""
    (y, x, _), (h, w, c) = model.family.latent(top, left), model.family.latent(height, width)
    return noise.region(0, top=y, left=x, height=h, width=w, channels=c)


def tiled(model: Model, lq: np.ndarray, remedy: Remedy, tile: int, whole: dict) -> tuple[np.ndarray, float]:
    """(the picture by tiles in grey levels, its cost). `whole`: statistics of the picture as a whole."""
    height, width, multiple = *lq.shape[:2], model.family.multiple
    size = round(remedy.larger * tile / multiple) * multiple
    sides = [min(size, length) for length in (height, width)]
    align = remedy.align or grid.alignment(model.family)
    overlap = remedy.overlap + -remedy.overlap % align
    if remedy.align:  # spread evenly, as `grid` does
        first = lambda length, side: tiles.spread(length, size=side, overlap=overlap, align=align)
    else:  # exactly this overlap, and of the network's own grid as much as it allows
        first = lambda length, side: tiles.starts(length, size=side, stride=side - overlap)
    rows, columns = (first(length, side) for length, side in zip((height, width), sides))
    places = [(row, column) for row in rows for column in columns]

    def run(given=None, chosen=places):
        parts = ((lq[y : y + sides[0], x : x + sides[1]], noise_at(model, y, x, *sides), given) for y, x in chosen)
        return [model.enlarge(*part) for part in parts]

    def blend(parts, scale):
        """Tiles whose pixels are 1 / scale of an LQ pixel."""
        shared = [[a + side - b for a, b in itertools.pairwise(axis)] for axis, side in zip((rows, columns), sides)]
        least = min((n for axis in shared for n in axis), default=0)
        shares = [
            tiles.average_shares(n * scale, [s * scale for s in axis], side * scale)
            if remedy.shares == "average"
            else tiles.smooth_shares(n * scale, [s * scale for s in axis], side * scale, overlap=least * scale)
            for n, axis, side in zip((height, width), (rows, columns), sides)
        ]
        made = np.zeros((height * scale, width * scale, parts[0].shape[-1]))
        for number, ((row, column), part) in enumerate(zip(places, parts)):
            i, j = divmod(number, len(columns))
            share = shares[0][i][:, None] * shares[1][j]
            where = slice(row * scale, row * scale + len(part)), slice(column * scale, column * scale + len(part[0]))
            made[where] += part * share[..., None]
        return made

    once = math.prod(side / (side - overlap) for side in sides)
    given, cost = None, once
    if remedy.statistics == "whole":
        given, cost = whole, 2 * once
    elif remedy.statistics == "mean":
        given, cost = mean_statistics([found for *_, found in run()]), 2 * once
    elif remedy.statistics == "some":
        found = [found for *_, found in run(chosen=places[::3])]
        given, cost = mean_statistics(found), once * (1 + len(found) / len(places))
    elif remedy.statistics == "small":
        shrunk = np.asarray(jax.image.resize(lq, (*sides, 3), "linear", antialias=True))
        given, cost = model.enlarge(shrunk, noise_at(model, 0, 0, *sides))[2], once * (1 + 1 / len(places))
    made = run(given)
    if remedy.latents:
        ratio = model.family.latent(multiple, multiple)[0] / multiple
        z0 = blend([z0 for _, z0, _ in made], int(ratio)).astype(np.float32)
        cut = [[slice(int(n * ratio), int((n + side) * ratio)) for n, side in zip(place, sides)] for place in places]
        return blend([model.decode(z0[rows, columns], given) for rows, columns in cut], model.family.scale), cost
    return blend([picture for picture, *_ in made], model.family.scale), cost


def mean_statistics(found: list[dict]) -> dict:
    """Those of the union of equal parts: mean of means; mean of variances, and the variance of means."""

    def pooled(*parts):
        means, variances = np.stack(parts, axis=1)
        return np.stack([means.mean(0), variances.mean(0) + means.var(0)])

    return jax.tree.map(pooled, *found)


# ---- what the eye meets ----------------------------------------------------------------------------------------------


def seam(difference: np.ndarray, side: int) -> float:
    """The largest step between neighbouring rows or columns, a mean over `side` pixels along it: grey levels."""
    steps = []
    for image in (difference.mean(-1), difference.mean(-1).T):
        along = len(image) // side or 1
        parts = np.array_split(np.diff(image, axis=1), along)
        steps.append(np.mean([np.abs(part.mean(0)) for part in parts], axis=0).max())
    return max(steps)


def pictures(height: int, width: int) -> dict[str, np.ndarray]:
    """LQ pictures in [-1, 1] by name: two photographs that no fit has seen, one colour, and a ramp."""
    photos = {path.stem: path for path in demo.paths(is_training=False)}
    shrunk = {}
    for name in ("matterhorn", "tulips"):
        whole = images.read(photos[name])
        sides = [min(whole.shape[axis] // 2, side) * 2 for axis, side in enumerate((height, width))]
        shrunk[name] = _means(_crop(photos[name], *sides)[None], 2)[0]
        assert shrunk[name].shape[:2] == (height, width), f"{name} is smaller than {width}x{height}"
    flat = np.broadcast_to(np.float32([0.1, 0, -0.1]), (height, width, 3))
    ramp = np.broadcast_to(np.linspace(-0.9, 0.9, width, dtype=np.float32)[:, None], (height, width, 3))
    return shrunk | {"flat": flat, "gradient": ramp}


def panel(difference: np.ndarray, gain: float = 20) -> np.ndarray:
    """The difference without colours, at half the size, times `gain`: uint8 (h / 2, w / 2), grey where it is zero.

    In steps of 8 levels, so that the file is small.
    """
    halved = _means(difference.mean(-1, keepdims=True)[None], 2)[0, ..., 0]
    return np.clip(np.rint(16 + gain * halved / 8) * 8, 0, 255).astype(np.uint8)


FIGURE = ("no overlap", "overlap 16, average", "overlap 16, smooth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle with one step, instead of the model fitted here")
    parser.add_argument("--height", type=int, default=96, help="of the pictures in LQ pixels (default 96)")
    parser.add_argument("--width", type=int, default=192, help="the same (default 192)")
    parser.add_argument("--tile", type=int, default=64, help="side in LQ pixels (default 64)")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows of the table, by name")
    parser.add_argument(
        "--figure", type=Path, help=f"PNG of the differences of a photograph, times 20: {', '.join(FIGURE)}"
    )
    options = parser.parse_args()
    model = Model(bundles.load(options.bundle) if options.bundle else fitted())
    multiple = model.family.multiple
    if options.height % multiple or options.width % multiple or options.tile % multiple:
        parser.error(f"this model needs multiples of {multiple}")
    shown = pictures(options.height, options.width)
    rows = remedies(multiple, bool(model.own))
    rows = [row for row in rows if not options.only or row.name in options.only]
    wholes = {}
    for name, lq in shown.items():
        picture, _, found = model.enlarge(lq, noise_at(model, 0, 0, *lq.shape[:2]))
        wholes[name] = picture, found
    print(f"LQ {options.width}x{options.height}, tiles of {options.tile}, multiples of {multiple}; grey levels")
    print(f"{'':22}{'cost':>5} " + "".join(f"{name:>24}" for name in shown))
    print(f"{'':28}" + "".join(f"{'max':>10}{'mean':>7}{'seam':>7}" for _ in shown))
    drawn = []
    for remedy in rows:
        line = ""
        for name, lq in shown.items():
            whole, found = wholes[name]
            made, cost = tiled(model, lq, remedy, options.tile, found)
            difference = made - whole
            line += f"{np.abs(difference).max():10.2f}{np.abs(difference).mean():7.3f}"
            line += f"{seam(difference, options.tile * model.family.scale):7.3f}"
            if name == next(iter(shown)) and remedy.name in FIGURE:
                drawn.append(panel(difference))
        print(f"{remedy.name:22}{cost:5.2f} {line}", flush=True)
    if options.figure:
        Image.fromarray(np.concatenate(drawn, axis=1)).save(options.figure, optimize=True)


if __name__ == "__main__":
    main()
