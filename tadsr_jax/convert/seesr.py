"""SeeSR, AddSR and TAD-SeeSR, as they and what they stand on are published, as one bundle.

    MODEL/{unet, controlnet}/  SD/{vae, text_encoder, scheduler, tokenizer}/  RAM, DAPE, tags  --seesr-->  BUNDLE/

seesr         files into a bundle             read_folder   the same into memory
What is published is listed in `seesr_presets`; what is no weights is read by `seesr_texts`; a folder that
`seesr_folder` wrote holds all of it. Everything is read and checked before anything is written, and weights keep the
types they came in.
"""

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from tadsr_jax import bundles
from tadsr_jax.convert import public, sd_files, sd_folder, seesr_folder, seesr_texts
from tadsr_jax.convert.seesr_presets import PRESETS, preset_of, terms_of
from tadsr_jax.diffusion import ddpm
from tadsr_jax.families import FAMILIES
from tadsr_jax.families.seesr import SCALING
from tadsr_jax.families.seesr_input import ADDED_WORDS
from tadsr_jax.networks.public_sd import IMAGE_STATES
from tadsr_jax.networks.ram import RAM
from tadsr_jax.types import Bundle, Family, PyTree


def seesr(
    model: str | Path,
    sd: str | Path | None = None,
    *,
    output: str | Path,
    overwrite: bool = False,
    **options,
) -> dict:
    """Make a bundle of public weights of SeeSR, AddSR or TAD-SeeSR; a report of what it is made of, ready for JSON.

    output, overwrite   its folder; a bundle there is replaced where that is asked for, what is no bundle never
    Everything else is as `read_folder` has it. Where that raises, nothing is written.
    """
    output = Path(output)
    public.check_output(output, overwrite=overwrite)
    bundle = read_folder(model, sd, **options)
    info = dict(bundle.info)
    family, settings = info.pop("family"), info.pop("settings")
    bundles.save(output, family=family, settings=settings, params=bundle.params, info=info, texts=bundle.texts)
    written = bundles.describe(output)["networks"]
    return {
        "bundle": str(output),
        **{key: info[key] for key in ("preset", "scale", "steps", "sampler")},
        "networks": {
            name: {
                "sources": _files_of(info["sources"], name),
                "tensors": len(jax.tree.leaves(params)),
                **written[name],
                "tree_sha256": bundles.tree_sha256(params),
            }
            for name, params in bundle.params.items()
        },
        "texts": sorted(bundle.texts),
        "notes": info["notes"],
        "next": shlex.join(["tadsr", "upscale", "photo.png", "--weights", str(output)]),
    }


def read_folder(
    model: str | Path,
    sd: str | Path | None = None,
    *,
    ram: str | Path | None = None,
    dape: str | Path | None = None,
    tags: str | Path | None = None,
    thresholds: str | Path | None = None,
    preset: str | None = None,
    steps: int | None = None,
    tagger: RAM | None = None,
    dtype=None,
) -> Bundle:
    """A model of the SeeSR family out of public files.

    model              folder with unet/ and controlnet/ of SeeSR, AddSR or TAD-SeeSR, or a checkpoint of their training
                       scripts; it may hold everything else too
    sd                 folder of Stable Diffusion 2 for what `model` lacks: vae, text_encoder, scheduler, tokenizer
    ram, dape          ram_swin_large_14m.pth and DAPE.pth; without them `model` has the folder tagger/
    tags, thresholds   texts with a label and a number a line, RAM's ram_tag_list.txt and ram_tag_list_threshold.txt;
                       without them the model is not told what the tagger sees
    preset             a name in PRESETS; without it, the name of the folder says
    steps              what `tadsr upscale` takes by default, instead of what the preset says
    tagger             the network of a RAM file of other sizes than the published
    dtype              of the parameters; by default the types of the files
    Raises ValueError in one line: for all the parts that are missing, for all configurations that are not possible
    here or do not fit each other, for all weights that are unreadable or do not fit.
    """
    index = seesr_folder.read_index(model)
    if preset not in (None, index.get("preset")):
        index = {key: value for key, value in index.items() if key in seesr_folder.OF_NETWORKS}
    with _together() as collect:
        with collect():
            about = _about(model, index, preset, steps)
        with collect():
            seesr_texts.check_given(ram=ram, dape=dape, tags=tags, thresholds=thresholds)
        with collect():
            parts = _parts(model, sd, ram)
    made, configs = _configurations(parts)
    trees, notes = {}, []
    if ram is not None:
        made["tagger"], tree = sd_folder.read_ram(ram, dape, network=tagger)
        trees["tagger"] = jax.tree.map(lambda array: array.astype(dtype or array.dtype, copy=False), tree)
        if dape is None:
            notes.append("no DAPE: image states are those of RAM, while these models were trained with DAPE's")
    texts = seesr_texts.read(parts, made["tagger"], tags, thresholds, notes)
    settings = _settings(made, configs["scheduler"], index, about["preset"])
    settings["no_words"] = seesr_texts.no_words(texts, made["text_encoder"], index.get("no_words"), notes)
    family = _family(model, settings)
    with _together() as collect:
        for part in (part for part in seesr_folder.NETWORKS if part not in trees):
            with collect():
                trees[part] = sd_folder.read_part(parts[part], part, dtype=dtype).params
    notes += [note for part, tree in trees.items() for note in _broken(part, tree)]
    about |= {"scale": family.scale, "sampler": family.sampler, "color_fix": family.color_fix}
    about |= {"public_config": configs, "sources": _sources(parts, ram, dape, about["preset"]), "notes": notes}
    info = {"family": "seesr", "settings": settings, **about}
    return Bundle(family=family, params=seesr_folder.joined(trees), info=info, texts=texts)


@contextlib.contextmanager
def _together() -> Iterator:
    """What goes wrong in any of the blocks `with collect():` inside is one ValueError at the end."""
    faults = []

    @contextlib.contextmanager
    def collect():
        try:
            yield
        except ValueError as error:
            faults.append(str(error))

    yield collect
    if faults:
        raise ValueError(" ".join(faults))


def _about(model, index: Mapping, preset: str | None, steps: int | None) -> dict:
    """What bundle.json says of the choice. `index`: what the folder says of itself."""
    preset = preset or index.get("preset") or preset_of(model)
    if preset not in PRESETS:
        said = f"--preset is {preset!r}" if preset else f"{model}: the name of the folder tells no preset"
        raise ValueError(f"{said}; give --preset with one of {', '.join(PRESETS)}.")
    known = PRESETS[preset]
    steps = index.get("steps", known.steps) if steps is None else steps
    if not 1 <= steps <= known.longest:
        raise ValueError(f"--steps is {steps}; {preset} has 1 to {known.longest}.")
    return {"preset": preset, "recipe": preset, "steps": steps, "longest": known.longest}


def _parts(model, sd, ram) -> dict[str, Path]:
    """{part: its folder}; the tagger is left out where RAM's file is given instead."""
    instead = () if ram is None else ("tagger",)
    needed = [part for part in sd_folder.KINDS if part not in instead]
    found = sd_folder.parts_of(model, *([] if sd is None else [sd]), needed=needed)
    return {part: folder for part, folder in found.items() if part not in instead}


def _configurations(parts: Mapping[str, Path]) -> tuple[dict, dict]:
    """({part: the network or schedule that its configuration makes}, {part: that configuration}), all checked."""
    made, configs = {}, {}
    with _together() as collect:
        for part in (part for part in sd_folder.KINDS if part in parts):
            with collect():
                made[part], configs[part] = sd_folder.read_config(parts[part], part)
                _check_kind(parts[part], part, made[part], configs[part])
    return made, configs


def _check_kind(folder: Path, part: str, made, config: Mapping) -> None:
    """ValueError for a part that is possible, but not that of this family."""
    if part in ("unet", "controlnet") and not made.use_image_cross_attention:
        raise ValueError(
            f"{folder}: this {part} has no image attentions, as that of plain Stable Diffusion: give --model the "
            "folder of SeeSR, AddSR or TAD-SeeSR, whose config.json says use_image_cross_attention."
        )
    if part == "tagger" and made.states_dim != IMAGE_STATES:
        raise ValueError(f"{folder}: states_dim is {made.states_dim}; the networks attend to states of {IMAGE_STATES}.")
    if part == "vae" and (found := config.get("scaling_factor", SCALING)) != SCALING:
        raise ValueError(f"{folder}: scaling_factor is {found!r}; the autoencoder of these models has {SCALING}.")


def _settings(made: Mapping, scheduler: Mapping, index: Mapping, preset: str) -> dict:
    """Keywords of `families.seesr_build.build`, every number spelt out."""
    fields = {part: _fields(module) for part, module in made.items() if isinstance(module, nn.Module)}
    return {
        "scale": 4,
        "denoiser": {part: fields[part] for part in ("unet", "controlnet")},
        "autoencoder": fields["vae"],
        "text_encoder": fields["text_encoder"],
        "tagger": fields["tagger"],
        "diffusion": _chain(scheduler),
        "added_words": ADDED_WORDS[preset],
        **{key: index[key] for key in seesr_folder.RULES if key in index},
    }


def _chain(scheduler: Mapping) -> dict:
    """Keywords of `diffusion.ddpm.ddpm_schedule`; without an offset of the times, a public file means none."""
    return {"steps_offset": 0} | {ours: scheduler[key] for key, ours in ddpm.SHARED.items() if key in scheduler}


def _fields(module: nn.Module) -> dict:
    """What a module computes, as JSON knows it."""
    fields = {key: getattr(module, key) for key in module.__dataclass_fields__ if key not in ("parent", "name")}
    how = ("dtype", "remat")
    return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items() if key not in how}


def _family(model, settings: Mapping) -> Family:
    try:
        return FAMILIES["seesr"](**settings)
    except ValueError as error:  # it speaks of a config's sections
        told = str(error).replace("config.networks.", "").replace("config.", "")
        raise ValueError(f"{model}: its parts, and what was taken from elsewhere, do not fit: {told}") from None


def _broken(part: str, tree: PyTree) -> list[str]:
    """A note on weights that fit and are no numbers."""
    flat = flatten_dict(tree, sep="/")
    broken = [name for name, array in flat.items() if not np.isfinite(array).all()]
    return [f"{len(broken)} tensors of {part} hold NaN or infinite numbers ({broken[0]}, ...)"] if broken else []


def _sources(parts: Mapping[str, Path], ram, dape, preset: str) -> dict:
    """{part: {"files": {name: SHA-256}}} of what the networks are made of, and as far as that is known, whose it is."""
    sources = {}
    for part in (part for part in seesr_folder.NETWORKS if part in parts):
        files = sd_files.files_of(sd_files.find_weights(parts[part]))
        named = {f"{part}/{file.name}": bundles.file_sha256(file) for file in files}
        sources[part] = {"files": named, **_terms(parts[part].parent, part, preset)}
    if "tagger" in parts and (terms := _terms(parts["tagger"].parent, seesr_folder.UPDATES, preset)):
        sources[seesr_folder.UPDATES] = {"files": {}, **terms}
    for part, file in (("tagger", ram), (seesr_folder.UPDATES, dape)):
        if file is not None:
            named = {Path(file).name: bundles.file_sha256(file)}
            sources[part] = {"files": named, **terms_of(Path(file).stem, part, preset)}
    return sources


def _terms(folder: Path, part: str, preset: str) -> dict:
    """Whose a part of a folder is: what the folder says where it was written here, else what its name tells."""
    said = seesr_folder.read_index(folder).get(seesr_folder.SOURCES)
    return terms_of(folder.absolute().name, part, preset) if said is None else said.get(part, {})


def _files_of(sources: Mapping, network: str) -> dict:
    """{file: SHA-256} of what a network of the bundle is made of."""
    parts = [part for part, of in seesr_folder.NETWORKS.items() if of == network]
    parts += [f"{part}_updates" for part in parts]
    return {file: digest for part in parts if part in sources for file, digest in sources[part]["files"].items()}
