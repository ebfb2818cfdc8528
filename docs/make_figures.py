"""The pictures of the README and of docs/training.md, and the table of figures, from a finished run.

    python docs/make_figures.py runs/small

Writes docs/images/*.png, and puts the table between the markers of README.md.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from tadsr_jax import bundles, data, images, pictures
from tadsr_jax.evaluate import report as reports

DOCS = Path(__file__).parent
DEMO = DOCS.parent / "tadsr_jax" / "assets" / "demo" / "validation"
PAIRS = {"macaque": (0.4, 0.5), "matterhorn": (0.6, 0.5)}  # photographs of the README's pair, and where to cut them
NAMES = {"psnr_y": "PSNR-Y, dB", "ssim_y": "SSIM-Y", "gmsd": "GMSD", "spectrum_error": "spectrum error, dB"}


def pair(run: Path, size: int = 224) -> None:
    """docs/images/pair.png: the input, and what one step makes of it, at full resolution."""
    bundle = bundles.load(run / "bundle")
    config = bundle.info["config"]
    pairs = data.validation_pairs(
        **config["validation"],
        scale=config["scale"],
        degradation=config["data"]["degradation"],
        seed=config["seed"],
        multiple=bundle.family.multiple,
    )
    sampler = reports.Sampler(bundle.family, pairs, seed=config["seed"])
    made = sampler(bundle.params["student"], bundle.params["autoencoder"], steps=bundle.info["steps"])
    lq = reports.enlarged_lq(pairs, bundle.family.scale)
    shown = []
    for name, (down, right) in PAIRS.items():
        index = next(i for i, each in enumerate(pairs) if each["name"].endswith(name))
        h, w, _ = made[index].shape
        top, left = int((h - size) * down), int((w - size) * right)
        cuts = [picture[index][top : top + size, left : left + size] for picture in (lq, made)]
        shown += [np.concatenate(cuts, axis=1), np.full((size, 12, 3), 255, np.uint8)]
    pictures.write(DOCS / "images" / "pair.png", np.concatenate(shown[:-1], axis=1))


def commands(run: Path, size: int = 224) -> None:
    """docs/images/upscale.png: two pictures as `tadsr upscale` gets them (bicubic here), and as it makes them."""
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        for name in PAIRS:
            gt = images.to_float(images.read(DEMO / f"{name}.jpg"))
            lq = images.to_uint8(np.clip(images.matlab_bicubic(gt, 1 / 4), 0, 1))
            Image.fromarray(lq).save(Path(folder) / f"{name}.jpg", quality=90)
        command = ["tadsr", "upscale", folder, "-o", f"{folder}/large", "--weights", run]
        subprocess.run(command, check=True)
        for name, (down, right) in PAIRS.items():
            large = Image.open(Path(folder) / "large" / f"{name}.png")
            small = Image.open(Path(folder) / f"{name}.jpg").resize(large.size, Image.Resampling.BICUBIC)
            left, top = int((large.width - size) * right), int((large.height - size) * down)
            cuts = [np.asarray(each.crop((left, top, left + size, top + size))) for each in (small, large)]
            shown += [np.concatenate(cuts, axis=1), np.full((size, 12, 3), 255, np.uint8)]
    pictures.write(DOCS / "images" / "upscale.png", np.concatenate(shown[:-1], axis=1))


def curves(run: Path) -> None:
    """docs/images/curves.png: what normal losses look like."""
    terms = (("teacher/metrics.jsonl", ("loss",)), ("metrics.jsonl", ("mse", "hsd", "gan", "loss_d")))
    panels = [(file, term) for file, names in terms for term in names]
    figure, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 2.4), layout="constrained")
    for axis, (file, term) in zip(axes, panels, strict=True):
        lines = [json.loads(line) for line in (run / file).read_text().splitlines()]
        lines = [line for line in lines if term in line]
        axis.plot([line["step"] for line in lines], [line[term] for line in lines], linewidth=1)
        axis.set_title(("teacher: " if "teacher" in file else "distillation: ") + term, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "images" / "curves.png", dpi=110)


def table(run: Path) -> str:
    """Markdown: the report of the run."""
    told = json.loads((run / "report.json").read_text())
    who = list(told["psnr_y"])
    lines = ["| | " + " | ".join(who) + " |", "| --- |" + " --- |" * len(who)]
    for key, title in NAMES.items():
        lines.append(
            f"| {title} | "
            + " | ".join(f"{told[key][each]:{'.2f' if 'dB' in title else '.4f'}}" for each in who)
            + " |"
        )
    near = told["psnr_to_teacher"]
    lines += [
        "",
        f"To the teacher's full sampling, from the same noise: {near['student']:.2f} dB PSNR for the student's one "
        f"step, {near['undistilled']:.2f} dB for the teacher forced into one step. {len(told['validation'])} "
        f"photographs that training never saw; {told['steps']} distillation steps; {told['seconds'] / 60:.1f} minutes "
        f"for all of it on {told['device']}.",
    ]
    return "\n".join(lines)


def main(run: Path) -> None:
    (DOCS / "images").mkdir(exist_ok=True)
    pair(run)
    commands(run)
    curves(run)
    sheet = Image.open(run / "comparison.png")
    sheet.save(DOCS / "images" / "comparison.png", optimize=True)
    readme = DOCS.parent / "README.md"
    marked = re.compile(r"(<!-- figures -->\n).*(<!-- end of figures -->)", re.DOTALL)
    readme.write_text(marked.sub(lambda m: f"{m[1]}{table(run)}\n{m[2]}", readme.read_text()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
