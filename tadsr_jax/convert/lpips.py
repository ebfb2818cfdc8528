"""The two files of LPIPS: a backbone of torchvision and the heads of the lpips package, as parameters."""

import re
from pathlib import Path

import numpy as np

from tadsr_jax.convert import names, torch_file
from tadsr_jax.networks.perceptual import LAYERS, Backbone, head_shapes


def load(backbone: str | Path, heads: str | Path, *, net: str = "vgg") -> dict:
    """Parameters for `networks.perceptual.lpips` from the user's files; `net` is "vgg" or "alex".

    backbone: torchvision's vgg16-397923af.pth or alexnet-owt-7be5be79.pth; its classifier is left out. heads:
    lpips/weights/v0.1/NET.pth, or pyiqa's file. Raises ValueError where a file cannot be read or is for another net.
    """
    if net not in LAYERS:
        raise ValueError(f"net is {net!r}; expected one of {', '.join(LAYERS)}.")
    params = {
        "backbone": _read(backbone, Backbone(net), r"features\.\d+\.(weight|bias)"),
        "heads": _read(heads, head_shapes(net), r"lin\d\.model\.1\.weight"),
    }
    if any(np.min(head["kernel"]) < 0 for head in params["heads"].values()):
        raise ValueError(f"{heads}: a head has negative weights; LPIPS 0.1 has none. Use lpips/weights/v0.1/{net}.pth.")
    return params


def _read(path, network, pattern: str) -> dict:
    """The entries of the file whose name matches, as parameters of `network`."""
    entries = torch_file.read(path)
    wanted = {name: array for name, array in entries.items() if re.fullmatch(pattern, name)}
    return names.to_flax(network, wanted or entries, source=str(path))["params"]
