"""The five nouns that the rooms of this package share; no logic.

Batch        what the data pipeline yields           TrainState   what a checkpoint holds
Recipe       what a method adds to the one training step
Family       the words a recipe may use about a model: networks, schedule, encode, decode, predict
Bundle       a model ready to use, saved to and loaded from one folder
Arrays are NHWC, pictures float32 RGB in [-1, 1]. Notation: docs/notation.md.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax

Array = jax.Array
PyTree = Any


@flax.struct.dataclass
class Batch:
    """What the data pipeline yields, s being the scale of the task (4 for x4)."""

    lq: Array  # (b, h, w, 3) float32 in [-1, 1], degraded
    gt: Array  # (b, s h, s w, 3) float32 in [-1, 1]
    extra: dict = flax.struct.field(
        default_factory=dict
    )  # e.g. "mask", or teacher targets made earlier: "eps", "z_tea"


@flax.struct.dataclass
class TrainState:
    """What a checkpoint holds beside the data position, and nothing else."""

    step: Array  # () int32: optimiser updates so far, skipped ones included
    key: Array  # raw data of the run's key; step n uses fold_in(key, n), so nothing can be lost on resume
    params: dict[str, PyTree]  # "student" and, where adversarial, "discriminator": what learns
    stats: dict[str, PyTree]  # state of the same networks that no gradient moves: spectral-norm vectors
    opt_state: dict[str, PyTree]
    ema: PyTree  # average of params["student"]
    skipped: Array  # () int32: steps left out because a loss or gradient was not finite
    skipped_in_row: Array  # () int32: how many of them were the last ones, in a row


class Recipe(NamedTuple):
    """What a method adds to the one training step (`train.train_step`): pure functions of explicit arrays.

    A loss returns (batch mean, (logs, stats)); logs are {name: array with the batch in front}, for the step to average.
    """

    adds: dict[str, Callable]  # networks of the method, not of the model: name -> (key, outputs, draws) -> variables
    frozen: tuple[str, ...]  # fixed networks that it reads: ("teacher", "autoencoder"), ...
    draw: Callable  # (key, frozen, batch) -> draws: every random number and every fixed target; no gradient
    generate: Callable  # (student, frozen, batch, draws) -> outputs: all that the student produces, run once
    student_loss: Callable  # (outputs, discriminator, stats, frozen, batch, draws) -> (scalar, (logs, stats))
    discriminator_loss: Callable | None = None  # (discriminator, stats, outputs, frozen, batch, draws) -> the same
    sample_steps: int = 1  # that the trained model samples with: all of a teacher's
    longest: int | None = None  # the most steps that it can be sampled with; None: those of its family
    first_step_full_rate: bool = False  # as a public trainer sets the rate, see `train.learning_rate`
    trained: Callable | None = (
        None  # (path) -> whether that leaf of the student learns; None: all do. The whole student
    )
    # is then frozen["student"], and params["student"] has the leaves that learn (networks.parts)
    reads: Mapping[str, nn.Module] = MappingProxyType({})  # fixed networks of the method, not of the model, in `frozen`


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: a family can be a static argument of jit
class Family:
    """The words a recipe may use about a model; functions of explicit parameters."""

    networks: dict[str, nn.Module]  # "denoiser", which learns, and the others, which do not
    schedule: Any  # tables and formulas of the diffusion: diffusion.shift.ShiftSchedule
    scale: int  # output pixels per input pixel, along one side
    multiple: int  # sides of lq must be multiples of this
    latent: Callable  # (h, w) of lq -> (h', w', channels) of its latent
    extras: tuple[str, ...]  # what `extra` must hold beside lq, as pictures of its size: ("mask",) for inpainting
    encode: Callable  # (frozen, image) -> z
    decode: Callable  # (frozen, z) -> image
    condition: Callable  # (frozen, lq, extra) -> pytree for the denoiser, "z_y" among it
    predict_z0: Callable  # (denoiser params, z_t, t, condition, chain=schedule) -> z0; chain: a respaced schedule
    features: Callable  # same arguments -> [feature maps of the denoiser's encoder], for discriminators
    init: Callable  # key -> {name of a network: params}, jitted inside eval_shape or jit
    sample: Callable  # (params, lq, noise, *, steps, extra, stochastic) -> image: what a user runs
    longest: int  # the most steps that `sample` takes: what a teacher is sampled with
    samplers: tuple[str, ...] = ("deterministic", "stochastic")  # how it can take several steps, by default the first
    color_fix: str = "none"  # what its pictures need by default: this, "wavelet" or "adain"
    smallest: int = 1  # pixels of lq's shorter side that the model was made for: less is enlarged to that before
    largest: int | None = None  # pixels along a side of lq that the model was made for: tiles are not larger by default
    stride: int | None = None  # pixels of lq in a cell of the coarsest level, where sides need not be multiples of that
    no_words: tuple[int, ...] = ()  # token ids that the denoiser is told where nothing is said, of a family with words
    # What a user may say of a picture, where there is anything: (texts of the bundle, *, steps, words ...) -> request,
    # and (params, request, picture (h, w, 3)) -> {name: array}, what all its tiles are told, for `extra` of `sample`.
    request: Callable | None = None
    prepare: Callable | None = None
    predict_eps: Callable | None = None  # as predict_z0, where the denoiser predicts the noise
    states: Callable | None = None  # (frozen, picture) -> what a tagger sees in it, where the family has one

    @property
    def sampler(self) -> str:
        """How it takes several steps by default."""
        return self.samplers[0]

    @property
    def fixed(self) -> tuple[str, ...]:
        """Names of the networks that never learn: "autoencoder", ..."""
        return tuple(name for name in self.networks if name != "denoiser")


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """A model ready to use: loaded from, or to be saved to, one folder."""

    family: Family
    params: dict[str, PyTree]  # "student" and the frozen networks that sampling reads
    info: dict  # bundle.json: family, recipe, scale, config, steps, sources, checksums, versions
    texts: dict[str, str] = dataclasses.field(default_factory=dict)  # {name: content}: its tokenizer, its list of tags
