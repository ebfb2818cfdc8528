"""A pipeline in the idiom of diffusers' Flax part, for people who come from there; `Upscaler` does the work.

    pipeline = FlaxSuperResolutionPipeline.from_pretrained(folder)       a bundle, or a folder in that library's layout
    large = pipeline(image, prompt="a cat", num_inference_steps=2).images[0]
    pipeline.save_pretrained(folder)                                     a folder in that library's layout

Nothing else in this package imports this module, or that library, whose last version with Flax is 0.39: see
docs/diffusers.md.
"""

import dataclasses
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from tadsr_jax import bundles, cache, images, networks, pictures
from tadsr_jax.convert import seesr, seesr_folder
from tadsr_jax.types import Bundle, PyTree
from tadsr_jax.upscale.upscaler import Upscaler

try:
    from diffusers.pipelines.pipeline_flax_utils import FlaxDiffusionPipeline, FlaxImagePipelineOutput
except ImportError:
    raise ImportError(
        "tadsr_jax.pipelines needs diffusers with Flax, whose last version is 0.39: pip install 'tadsr_jax[diffusers]'."
    ) from None

OUTPUTS = ("pil", "np")


class FlaxSuperResolutionPipeline(FlaxDiffusionPipeline):
    """Pictures of any size through the model of a bundle.

    Unlike that library's own Flax pipelines it holds its parameters, on all local devices: `from_pretrained` returns
    the pipeline alone, and a call takes no `params`.

    components   {name: module}, also as attributes: pipeline.unet, pipeline.vae, ...
    params       {network of a bundle: parameters}
    upscaler     the `Upscaler`, which has more: a plan of time and memory, warming up
    """

    def __init__(self, bundle: Bundle):
        super().__init__()
        self.upscaler = Upscaler(bundle)
        self._bundle = dataclasses.replace(bundle, params=self.upscaler.params)  # not held twice
        vars(self).update(self.components)
        classes = {name: type(component) for name, component in self.components.items()}
        self.register_to_config(**{name: (kind.__module__, kind.__name__) for name, kind in classes.items()})

    @property
    def components(self) -> dict:
        """Networks and schedule, under the names of their folders where the family has such a layout."""
        family = self._bundle.family
        modules = seesr_folder.modules_of(family) if self._has_layout else family.networks
        return {**modules, "scheduler": family.schedule}

    @property
    def params(self) -> dict[str, PyTree]:
        return self._bundle.params

    @property
    def _has_layout(self) -> bool:
        """Whether the library knows folders of such a model."""
        return self._bundle.info["family"] == "seesr"

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, dtype=None, **public
    ) -> "FlaxSuperResolutionPipeline":
        """The pipeline of a folder: a bundle, a training run that ended in one, or what `save_pretrained` wrote.

        dtype    of the arithmetic: jnp.float32 or jnp.bfloat16, also by name; as the folder says where it is None.
                 Parameters are float32
        public   of folders as they are published: what they lack, as `convert.seesr.read_folder` takes it, such as
                 sd="stable-diffusion-2-base", ram="ram_swin_large_14m.pth"
        Raises ValueError, one line, for whatever is wrong with the folder, and warns of what such a folder lacks.
        Nothing is downloaded.
        """
        folder, dtype = Path(pretrained_model_name_or_path), _dtype_name(dtype)
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; expected a bundle, or a downloaded model of diffusers.")
        cache.enable()
        if not bundles.is_bundle(bundles.find(folder)):
            return cls(_of_diffusers(folder, dtype, public))
        if public:
            raise ValueError(f"{folder} is a bundle, which lacks nothing; leave out {', '.join(public)}.")
        return cls(bundles.load(folder, dtype=dtype))

    def save_pretrained(
        self, save_directory: str | Path, params: dict[str, PyTree] | None = None, *, overwrite: bool = False
    ) -> None:
        """Write a folder in that library's layout, whole or not at all; `from_pretrained` reads it again.

        params      instead of the pipeline's own, of the same form
        overwrite   replace a model that is there
        Weights are written as they are here, in float32; `tadsr convert BUNDLE --to diffusers` keeps the types of a
        bundle. Raises ValueError for a model that has no such layout, and for a folder that is in use.
        """
        if not self._has_layout:
            raise ValueError(
                f"This model is of the family {self._bundle.info['family']!r}, which has no layout of diffusers: copy "
                "the folder of its bundle, or make files for others of it with `tadsr export`."
            )
        trees = self.params if params is None else params
        read = lambda name: jax.device_get(trees[name])
        seesr_folder.write_folder(self._bundle, save_directory, read=read, overwrite=overwrite)

    def __call__(
        self,
        image,
        prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        *,
        seed: int | jax.Array = 0,
        mask=None,
        output_type: str = "pil",
        return_dict: bool = True,
        **options,
    ) -> FlaxImagePipelineOutput | tuple:
        """Enlarged pictures, as `.images` of the result, or as the one entry of a tuple without `return_dict`.

        image                  one or a list, of any sizes: PIL, or arrays as `Upscaler` takes them; or (n, h, w, c)
        prompt                 words beside what the model itself sees in the picture
        num_inference_steps    1 .. those of the model; its default where None
        guidance_scale, negative_prompt   of models of more than 4 steps
        seed                   an integer, or a key of jax; `PRNGKey(7)` is 7
        mask                   of models that fill in, as `Upscaler` takes it; of several pictures a list
        output_type            "pil": a list of PIL images. "np": floats in [0, 1], (n, h, w, c), or a list of (h, w, c)
                               where sizes differ
        options                of `Upscaler`: tile, color_fix, scale, psr_weight, start, ...
        Raises ValueError for wrong arguments, before anything is compiled.
        """
        if output_type not in OUTPUTS:
            raise ValueError(f"output_type is {output_type!r}; expected one of {', '.join(OUTPUTS)}.")
        several = isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4
        given = list(image) if several else [image]
        made = self.upscaler(
            given if output_type == "pil" else [_to_unit(one) for one in given],
            steps=num_inference_steps,
            seed=_seed_of(seed),
            mask=mask if several or mask is None else [mask],
            prompt=prompt or None,
            guidance=guidance_scale,
            negative_prompt=negative_prompt,
            **options,
        )
        made = [_to_pil(one) for one in made] if output_type == "pil" else _stacked(made)
        return FlaxImagePipelineOutput(images=made) if return_dict else (made,)


def _dtype_name(dtype) -> str | None:
    name = dtype if dtype is None or isinstance(dtype, str) else jnp.dtype(dtype).name
    if name not in (None, *networks.DTYPES):
        raise ValueError(f"dtype is {name!r}; expected one of {', '.join(networks.DTYPES)}.")
    return name


def _of_diffusers(folder: Path, dtype: str | None, public: dict) -> Bundle:
    """The model of a folder in that library's layout, as `bundles.load` has those of bundles."""
    bundle = seesr.read_folder(folder, **public, dtype=np.float32)
    for note in bundle.info["notes"]:
        warnings.warn(f"{folder}: {note}.", stacklevel=3)  # at who called `from_pretrained`
    return dataclasses.replace(bundle, family=bundles.family_of(bundle.info, dtype))


def _seed_of(seed) -> int:
    """The number that the two words of a key of jax make, the upper one first; anything else as it is."""
    if not isinstance(seed, jax.Array):
        return seed
    words = jax.random.key_data(seed) if jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) else seed
    if words.shape != (2,):
        raise ValueError(f"seed is an array {words.shape}; expected an integer, or one key of jax of two words.")
    upper, lower = (int(word) for word in words)
    return upper << 32 | lower


def _to_pil(picture) -> Image.Image:
    """What `Upscaler` made, of an array or a PIL image, as the latter."""
    if isinstance(picture, Image.Image):
        return picture
    return pictures.to_pil(images.to_uint8(picture) if picture.dtype.kind == "f" else picture)


def _to_unit(image) -> np.ndarray:
    """Floats in [0, 1], of a PIL image or levels."""
    pixels = pictures.from_pil(image).pixels if isinstance(image, Image.Image) else np.asarray(image)
    return images.to_float(pixels) if pixels.dtype.kind == "u" else pixels


def _stacked(made: list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """(n, h, w, c) where all have one size; grey has c = 1."""
    made = [np.atleast_3d(one) for one in made]
    return np.stack(made) if len({one.shape for one in made}) == 1 else made
