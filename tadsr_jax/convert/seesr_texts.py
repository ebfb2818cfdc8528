"""What of a model of the SeeSR family is no weights: its tokenizer and its list of tags, read and checked.

read         the texts of a bundle, by their plain names      no_words   token ids of an empty text
check_given  which files are given together
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from tadsr_jax import tokenizer
from tadsr_jax.families.seesr import NO_WORDS
from tadsr_jax.families.seesr_input import LABELS, THRESHOLDS, check_readable, read_tags
from tadsr_jax.networks.clip_text import CLIPTextModel
from tadsr_jax.networks.ram import RAM


def check_given(*, ram, dape, tags, thresholds) -> None:
    """ValueError for files that are given without those that they belong to."""
    if dape is not None and ram is None:
        raise ValueError(f"--dape is {dape}, which changes RAM's weights: give --ram, ram_swin_large_14m.pth, too.")
    if (tags is None) != (thresholds is None):
        lacking = "--tags" if tags is None else "--thresholds"
        raise ValueError(f"--tags and --thresholds belong together, a line a class each: give {lacking} too.")


def read(parts: Mapping[str, Path], tagger: RAM, tags, thresholds, notes: list[str]) -> dict[str, str]:
    """{name: text} of the tokenizer and of the tags, checked; `notes` says what is lacking.

    parts              folders of the parts: "tokenizer" and "tagger", where they are there
    tags, thresholds   files; without them, those in the tagger's folder, where it has them
    """
    texts = tokenizer.files_of(parts["tokenizer"]) if "tokenizer" in parts else {}
    if not texts:
        notes.append(
            "no tokenizer: the model is told no words, and SeeSR's steps have no guidance; give --sd, a Stable "
            "Diffusion folder that has one"
        )
    lacking = "no list of tags"
    if tags is None and "tagger" in parts:
        found = {name: parts["tagger"] / name for name in (LABELS, THRESHOLDS)}
        missing = [name for name, path in found.items() if not path.is_file()]
        if not missing:
            tags, thresholds = found.values()
        elif len(missing) < len(found):
            lacking = f"{parts['tagger']} has no {missing[0]}, which the other list needs"
    if tags is None:
        notes.append(f"{lacking}: the model is not told what is in the picture; give --tags and --thresholds")
        return texts
    lists = {LABELS: _lines(tags), THRESHOLDS: _lines(thresholds)}
    try:
        count = len(read_tags(lists).labels)
    except ValueError as error:
        raise ValueError(f"{tags}, {thresholds}: {error}") from None
    if count != tagger.num_class:
        classes = "no head for them" if tagger.num_class is None else f"{tagger.num_class} classes"
        raise ValueError(f"{tags}: {count} tags, but the tagger has {classes}; give the list that it was trained with.")
    return texts | lists


def no_words(
    texts: Mapping[str, str], text_encoder: CLIPTextModel, known: Sequence[int] | None, notes: list[str]
) -> list[int]:
    """Token ids of an empty text: the `known` ones, or what the tokenizer says, or those of Stable Diffusion 2.

    Raises ValueError where the text encoder cannot read them.
    """
    ids = known
    if ids is None and tokenizer.is_complete(texts) and importlib.util.find_spec("tokenizers"):
        ids = tokenizer.read(texts, source="The tokenizer")("").tolist()
    elif ids is None:
        ids = NO_WORDS
        if texts and tokenizer.is_complete(texts):
            notes.append("the package tokenizers is not installed: the empty text is taken as Stable Diffusion 2's")
    check_readable("An empty text", len(ids), max(ids), text_encoder)
    return [int(token) for token in ids]


def _lines(path: str | Path) -> str:
    """The lines of a text that are not empty."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text ({error}).") from None
    return "".join(f"{line.strip()}\n" for line in lines if line.strip())
