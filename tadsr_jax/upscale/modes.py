"""What a picture is beside three colours: grey, transparent, of 16 bits or floats, a PIL image; taken off, put back.

The network sees RGB. Grey pictures come back grey (luma), alpha is enlarged by bicubic interpolation, and the colours
below transparent pixels are replaced by those of their neighbours, so that no halo creeps in.
"""

import dataclasses

import cv2
import numpy as np
from PIL import Image

from tadsr_jax import images, pictures


@dataclasses.dataclass(frozen=True)
class Source:
    """An input picture taken apart."""

    rgb: np.ndarray  # (h, w, 3) uint8, uint16, or float32 in [0, 1]
    alpha: np.ndarray | None  # (h, w) of the same dtype
    is_grey: bool
    picture: pictures.Picture | None  # where it came as a PIL image: its profile and tags


def take_apart(image) -> Source:
    """A PIL image, or an array (h, w[, 1 to 4]) of uint8, uint16 or floats in [0, 1]: grey, grey + alpha, RGB, RGBA."""
    picture = pictures.from_pil(image) if isinstance(image, Image.Image) else None
    pixels = picture.pixels if picture else np.asarray(image)
    if pixels.ndim == 0 or pixels.dtype.kind == "O":
        raise ValueError(f"the picture is a {type(image).__name__}; expected an array, a PIL image, or a list of them.")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] not in (2, 3, 4)):
        raise ValueError(
            f"the picture has shape {pixels.shape}; expected (h, w) grey, (h, w, 2) grey and alpha, (h, w, 3) RGB or "
            "(h, w, 4) RGBA."
        )
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise ValueError("the picture is of floats, and some are not in [0, 1]; divide levels of 0 to 255 by 255.")
        pixels = pixels.astype(np.float32)
    elif pixels.dtype == np.uint16:
        pixels = pixels.astype(np.uint16)  # of either byte order
    elif pixels.dtype != np.uint8:
        raise ValueError(f"the picture is of {pixels.dtype}; expected uint8, uint16, or floats in [0, 1].")
    is_grey = pixels.ndim == 2 or pixels.shape[2] == 2
    if pixels.ndim == 2:
        return Source(np.repeat(pixels[..., None], 3, axis=2), None, True, picture)
    alpha = np.ascontiguousarray(pixels[..., -1]) if pixels.shape[2] in (2, 4) else None
    rgb = np.repeat(pixels[..., :1], 3, axis=2) if is_grey else pixels[..., :3]
    if alpha is not None:
        rgb = pictures.bleed(rgb, alpha)
    return Source(np.ascontiguousarray(rgb), alpha, is_grey, picture)


def put_together(source: Source, enlarged: np.ndarray):
    """The result in the kind of its source. `enlarged`: (H, W, 3), or (H, W) of a grey source, in its dtype."""
    if source.alpha is not None:
        alpha = resized(source.alpha, *enlarged.shape[:2])
        enlarged = np.concatenate([enlarged.reshape(*alpha.shape, -1), alpha[..., None]], axis=2)
    if source.picture is None:
        return enlarged
    image = pictures.to_pil(enlarged)
    kept = {"icc_profile": source.picture.icc, "exif": source.picture.exif, "xmp": source.picture.xmp}
    image.info |= {key: value for key, value in kept.items() if value}
    return image


def grown(levels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pictures (h, w, 3) for models that need larger ones: Pillow's bicubic (a = -0.5), in the dtype of the input."""
    if levels.shape[:2] == (height, width):
        return levels
    resize = lambda image: np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    if levels.dtype == np.uint8:
        return resize(Image.fromarray(levels))
    channels = [
        resize(Image.fromarray(channel)) for channel in np.moveaxis(to_unit(levels), 2, 0)
    ]  # Pillow has no more
    return to_levels(np.stack(channels, axis=2), levels.dtype)


def resized(levels: np.ndarray, height: int, width: int) -> np.ndarray:
    """By area where it shrinks, else bicubic, in the dtype of the input: uint8, uint16 or float32 in [0, 1]."""
    if levels.shape[:2] == (height, width):
        return levels
    shrinks = height <= levels.shape[0] and width <= levels.shape[1]
    made = cv2.resize(levels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.clip(made, 0, 1) if levels.dtype == np.float32 else made


def to_levels(image: np.ndarray, dtype) -> np.ndarray:
    """[0, 1] -> uint8 or uint16 levels, rounded half to even, or float32 clipped."""
    image = np.clip(image, 0, 1)
    if dtype == np.float32:
        return image.astype(np.float32)
    return np.rint(image * np.float32(np.iinfo(dtype).max)).astype(dtype)


def to_unit(levels: np.ndarray) -> np.ndarray:
    """Levels, or floats as they are -> float32 in [0, 1]."""
    return levels.astype(np.float32) if levels.dtype.kind == "f" else images.to_float(levels)
