"""Workdirs for the tests of what reads them: one that was trained, made once a worker, and others that look so."""

import json
import runpy
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from tadsr_jax import job
from tadsr_jax.checkpoints import Checkpoints
from tadsr_jax.config import plain
from tadsr_jax.job.saved import abstract_state
from tadsr_jax.sharding import make_mesh, place
from tadsr_jax.types import TrainState

CONFIGS = Path(__file__).parent.parent / "configs"
STEPS = (2, 4)  # checkpoints of the trained run
VQ = {"kind": "vq", "embed_dim": 3, "n_embed": 16, "z_channels": 3, "ch": 32, "ch_mult": (1, 2, 2), "num_res_blocks": 1,
      "resolution": 32}  # fmt: skip


def tiny_config(name: str = "teacher_x4", **train) -> dict:
    config = plain(runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]("tiny"))
    config["train"] |= {"evaluate_every": 0} | train
    config["validation"]["count"] = 1
    return config


def vq_config() -> dict:
    """The tiny teacher over latents of three channels, whose autoencoder has parameters."""
    config = tiny_config()
    config["networks"]["autoencoder"] = VQ
    config["networks"]["denoiser"]["latent_channels"] = 3
    return config


def trained(factory) -> Path:
    """The workdir of a tiny teacher that took four steps; `factory` is pytest's tmp_path_factory. Not to be changed."""
    workdir = factory.getbasetemp() / "trained" / "run"
    if not (workdir / "report.json").exists():
        job.run(job.read(tiny_config(steps=STEPS[-1], save_every=STEPS[0])), workdir)
    return workdir


def random_state(config: dict, seed: int = 0) -> TrainState:
    """A state of a run of this config, every number random."""
    family, recipe, optimizers, _ = job.parts(config)
    shapes = abstract_state(config, family, recipe, optimizers)
    rng = np.random.default_rng(seed)
    draw = lambda leaf: np.asarray(rng.uniform(0, 9, leaf.shape), leaf.dtype)
    return jax.tree.map(draw, shapes).replace(step=np.int32(3))


def begun(workdir: Path, config: dict, state: TrainState | None = None, mesh: Mesh | None = None) -> Path:
    """A workdir as a run leaves it after its first save, at step 3."""
    state = random_state(config) if state is None else state
    mesh = make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh
    with Checkpoints(workdir / "checkpoints") as manager:
        manager.save(place(state, mesh), batches=3)
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir
