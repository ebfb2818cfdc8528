"""Run the model in this folder: python loader.py picture.npy enlarged.npy

It needs jax, flatbuffers, numpy and safetensors. Pictures are arrays (height, width, 3) of uint8, RGB; with Pillow one
is read by `numpy.asarray(Image.open(path).convert("RGB"))`, and made from the result by `Image.fromarray(enlarged)`.
"""

import json
import sys
from pathlib import Path

import numpy as np
from jax import export
from safetensors.numpy import load_file


def load(folder):
    """A function (picture, *masks, seed=0) -> enlarged picture. Masks, of models that fill in: (h, w), 1 is unknown."""
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    weights = load_file(folder / "weights.safetensors")
    program = export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))

    def enlarge(picture, *masks, seed=0):
        (height, width, _), multiple, scale = picture.shape, manifest["multiple"], manifest["scale"]
        pad = lambda image: np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), "reflect")[None]
        lq = pad(picture / np.float32(127.5) - 1)
        masks = [pad(np.where(mask[..., None], np.float32(1), np.float32(-1))) for mask in masks]
        sizes = {"b": 1, "h": lq.shape[1] // multiple, "w": lq.shape[2] // multiple}
        shape = [size if isinstance(size, int) else size[0] * sizes[size[1]] for size in manifest["inputs"][1]["shape"]]
        noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
        image = np.asarray(program.call(weights, lq, noise, *masks))[0, : height * scale, : width * scale]
        return np.rint((image + 1) * 127.5).astype(np.uint8)

    return enlarge


if __name__ == "__main__":
    np.save(sys.argv[2], load(Path(__file__).parent)(np.load(sys.argv[1])))
