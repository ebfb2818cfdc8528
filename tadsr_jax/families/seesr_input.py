"""What the SeeSR family is told of a picture before it samples: prompts of tags and words, image states, numbers.

    prompt, guidance, ... --request--> Request          picture --(tagger)--> image states, tags
    tags, words --prompt--> text --(tokenizer, text encoder)--> text states

request    what a user's words mean, checked, once for all pictures         preparer   what one picture is told
requester  the same of texts that a text encoder can read                   check_readable   whether it can
These are the rules of the public scripts of SeeSR, AddSR and TAD-SeeSR.
"""

import dataclasses
import functools
import math
import numbers
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from tadsr_jax import images, tokenizer
from tadsr_jax.diffusion.ddpm import FEW_STEPS
from tadsr_jax.families.seesr_sampling import GUIDANCE, REFINEMENT
from tadsr_jax.networks import ram
from tadsr_jax.networks.clip_text import CLIPTextModel
from tadsr_jax.networks.ram import RAM
from tadsr_jax.tokenizer import Tokenizer

SMALLEST = 512  # of the enlarged picture's sides: what the networks were trained with

ADDED_WORDS = {  # after the tags and the user's words
    "seesr": "clean, high-resolution, 8k",
    "addsr": "clean, high-resolution, 8k, extremely detailed, best quality, sharp",
    "tad_seesr": "clean, high-resolution, 8k, extremely detailed, best quality, sharp",
}
NEGATIVE_WORDS = "dotted, noise, blur, lowres, smooth"  # what guidance leads away from
LABELS, THRESHOLDS = "tags.txt", "thresholds.txt"  # names of a bundle's texts: a line each
STARTS = ("lq", "noise")


class Tags(NamedTuple):
    """The names of a tagger's classes, and the probabilities above which they are told."""

    labels: list[str]
    thresholds: np.ndarray


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for, whatever the picture."""

    tokenizer: Tokenizer | None  # None: the empty text is all that can be said
    tags: Tags | None
    words: str
    negative: np.ndarray | None  # token ids; None: no guidance
    guidance: float
    refinement: float
    from_noise: bool


def prompt(tags: str, words: str = "", *, added: str = ADDED_WORDS["addsr"]) -> str:
    """The text of a picture: its tags ("cat, dog"), the user's words, and words that are always added.

    "cat, dog, ,clean, high-resolution, 8k": also where a part is empty the commas stay, as the networks know it.
    """
    return f"{tags}, {words},{added}"


def read_tags(texts: Mapping[str, str]) -> Tags | None:
    """The tags of a bundle's texts, ram_tag_list.txt and ram_tag_list_threshold.txt of RAM; None where there are none.

    Raises ValueError unless there is a threshold between 0 and 1 for each label.
    """
    if (LABELS in texts) != (THRESHOLDS in texts):
        raise ValueError(f"{LABELS} and {THRESHOLDS} belong together, a line of each for a tag; one is missing.")
    if LABELS not in texts:
        return None
    labels = [line.strip() for line in texts[LABELS].splitlines() if line.strip()]
    try:
        thresholds = np.array([float(line) for line in texts[THRESHOLDS].split()], np.float32)
    except ValueError as error:
        raise ValueError(f"the tags' thresholds are no list of numbers: {error}.") from None
    if len(labels) != len(thresholds):
        raise ValueError(f"{len(labels)} tags and {len(thresholds)} thresholds; expected one threshold for each.")
    if not np.all((thresholds > 0) & (thresholds < 1)):
        raise ValueError("the tags' thresholds have numbers outside of 0 to 1, which are no probabilities.")
    return Tags(labels, thresholds)


def request(
    texts: Mapping[str, str],
    *,
    steps: int,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    guidance: float | None = None,
    psr_weight: float | None = None,
    start: str | None = None,
) -> Request:
    """What a user asks of the model, checked; None stands for the default.

    prompt            words beside the tags of the picture and those that are always added
    negative_prompt   what guidance leads away from
    guidance          of more than 4 steps: 1 for none; 5.5 by default
    psr_weight        of 2 to 4 steps: the share, 0 to 1, of the last prediction in the picture that the next is shown
    start             "lq", the noised latent of the picture, or "noise" alone
    Raises ValueError for what the model cannot do with these texts and steps.
    """
    has_words = tokenizer.is_complete(texts)
    few = steps <= len(FEW_STEPS)
    if negative_prompt is not None and (few or guidance == 1):
        raise ValueError(f"negative_prompt is {negative_prompt!r}, which matters with guidance alone; leave it out.")
    for name, value in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if value is not None and not _is_text(value):
            raise ValueError(f"{name} is {value!r}; expected words.")
        if value and not has_words:
            raise ValueError(
                f"{name} is {value!r}, but this bundle has no tokenizer; make it with `tadsr convert seesr` and a "
                "Stable Diffusion folder that has one."
            )
    _check_number("guidance", guidance, 1, math.inf, "a number, 1 or more")
    _check_number("psr_weight", psr_weight, 0, 1, "a share from 0 to 1")
    if guidance not in (None, 1) and few:
        raise ValueError(f"guidance is {guidance} with {steps} step(s); the models of up to 4 steps have none.")
    if guidance not in (None, 1) and not has_words:
        raise ValueError(f"guidance is {guidance}, but this bundle has no tokenizer for the words that it leads from.")
    if psr_weight is not None and not 1 < steps <= len(FEW_STEPS):
        raise ValueError(f"psr_weight is {psr_weight} with {steps} step(s); it matters for 2 to {len(FEW_STEPS)}.")
    if start is not None and start not in STARTS:
        raise ValueError(f"start is {start!r}; expected {' or '.join(STARTS)}.")
    reader = tokenizer.read(texts, source="the bundle's texts") if has_words else None
    guided = reader is not None and not few and guidance != 1
    if not (guided or few or guidance == 1):
        warnings.warn("without a tokenizer there are no words to be led away from: no guidance.", stacklevel=2)
    away = NEGATIVE_WORDS if negative_prompt is None else negative_prompt
    return Request(
        tokenizer=reader,
        tags=read_tags(texts),
        words=prompt or "",
        negative=reader(away) if guided else None,
        guidance=GUIDANCE if guidance is None else float(guidance),
        refinement=REFINEMENT if psr_weight is None else float(psr_weight),
        from_noise=start == "noise",
    )


def requester(text_encoder: CLIPTextModel) -> Callable:
    """The family's `request`: the one above, of texts whose tokenizer the text encoder can read."""

    @functools.wraps(request)
    def of_texts(texts: Mapping[str, str], **words) -> Request:
        made = request(texts, **words)
        if reader := made.tokenizer:
            check_readable("A text of this tokenizer", reader.length, reader.largest, text_encoder)
        return made

    return of_texts


def check_readable(what: str, length: int, largest: int, text_encoder: CLIPTextModel) -> None:
    """ValueError unless the text encoder reads that many ids, that large: larger ones would be read as others."""
    longest, most = text_encoder.max_position_embeddings, text_encoder.vocab_size
    if length > longest or largest >= most:
        raise ValueError(
            f"{what} has {length} tokens with ids up to {largest}, but the text encoder reads {longest} and has "
            f"{most}: give the tokenizer that it was trained with."
        )


def _is_text(value) -> bool:
    """Whether it is a text of whole characters: of a command line, it need not be."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _check_number(name: str, value, low: float, high: float, words: str) -> None:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if value is not None and not (is_number and low <= value <= high and math.isfinite(value)):
        raise ValueError(f"{name} is {value!r}; expected {words}.")


def preparer(text_encoder: CLIPTextModel, tagger: RAM, *, no_words: tuple[int, ...], added: str) -> Callable:
    """The family's `prepare`: (params, request, picture (h, w, 3) in [-1, 1]) -> what its sampler is told of it.

        image_states (tokens, 512), text (tokens, c), and () numbers refinement and from_noise; with guidance also
        negative_text (tokens, c) and guidance

    The tagger sees the small picture, bilinear without antialiasing, as in the public scripts. Where it has a head, and
    the request has its tags, what it sees is said before the user's words; without a tokenizer nothing is said.
    """
    size = (tagger.image_size, tagger.image_size)
    seen = lambda picture: ram.prepare(picture, size=tagger.image_size, mode="bilinear")
    look = jax.jit(lambda params, picture: tagger.apply({"params": params}, seen(picture)))
    judge = jax.jit(lambda params, states: tagger.apply({"params": params}, states, method="tag_logits"))
    encode = jax.jit(lambda params, tokens: text_encoder.apply({"params": params}, tokens))

    def text_of(params, request: Request, states) -> np.ndarray:
        """Token ids of the picture's prompt."""
        if request.tokenizer is None:
            return np.asarray(no_words, np.int32)
        tags = ""
        if request.tags is not None and tagger.num_class is not None:
            logits = np.asarray(judge(params["tagger"], states))
            (tags,) = ram.tags(logits, request.tags.thresholds, request.tags.labels)
        return request.tokenizer(prompt(tags, request.words, added=added))

    def prepare(params, request: Request, picture) -> dict[str, np.ndarray]:
        # On the host, so that the tagger is compiled once, and not for every size of picture.
        small = images.torch_resize(images.from_signed(picture), mode="bilinear", size=size)
        states = look(params["tagger"], small[None])
        said = {"text": text_of(params, request, states)}
        if request.negative is not None:
            said["negative_text"] = request.negative
        told = {name: np.asarray(encode(params["text_encoder"], tokens[None]))[0] for name, tokens in said.items()}
        told["image_states"] = np.asarray(states)[0]
        told["refinement"] = np.float32(request.refinement)
        told["from_noise"] = np.bool_(request.from_noise)
        return told | ({"guidance": np.float32(request.guidance)} if request.negative is not None else {})

    return prepare
