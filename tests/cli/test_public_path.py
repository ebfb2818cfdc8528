"""From public weights to the public code's picture, by the commands a person types."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tadsr_jax import cli
from tests.parity.cases import find

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = {case.name.split("/")[-1]: case for case in find(FIXTURES) if case.kind == "image_to_image"}


def latent_noise(case) -> np.ndarray:
    """What the public code drew, in its own layout: the start's noise, and behind it that of each step."""
    start = case.inputs["noise"][0]  # 1 c h w
    steps = case.inputs["step_noise"][0] if "step_noise" in case.inputs else np.empty((0, *start.shape), np.float32)
    return np.concatenate([start[None], steps])[:, 0]


@pytest.mark.parametrize("name", ["one_step_sinsr_padded", "inpaint_mask_s4"])
def test_converted_weights_make_the_recorded_picture(name, tmp_path, monkeypatch):
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    for part in ("unet", "autoencoder"):
        weights = {key: np.ascontiguousarray(value) for key, value in case.weights(part).items()}
        save_file(weights, f"{part}.safetensors")
    Path("config.json").write_text(json.dumps(case.config))
    lq = case.inputs["lq"]
    Image.fromarray(lq if lq.ndim == 3 else lq[0]).save("lq.png")
    np.save("noise.npy", latent_noise(case))
    mask = []
    if "mask" in case.inputs:
        Image.fromarray(case.inputs["mask"].reshape(lq.shape[-3:-1])).save("mask.png")
        mask = ["--mask", "mask.png"]
    run("convert", "resshift", "--unet", "unet.safetensors", "--autoencoder", "autoencoder.safetensors",
        "--config", "config.json", "-o", "model")  # fmt: skip
    run("upscale", "lq.png", "--weights", "model", "-o", "out.png", "--tile", "none", "--color-fix", "none",
        "--noise", "noise.npy", *mask)  # fmt: skip
    got = np.asarray(Image.open("out.png")).astype(int)
    assert np.abs(got - case.arrays["hr_uint8"]).max() <= 1  # a level, where rounding is close


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert not ended.value.code
