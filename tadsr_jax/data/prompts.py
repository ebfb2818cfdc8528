"""Words as the ids that a text encoder reads: CLIP's byte-pair encoding, with the vocabulary of the user's own folder.

    "Cat, sofa" -> 49406 2368 267 15723 49407 0 0 ... 0      start, pieces, end, padding up to 77

open_tokenizer   a Tokenizer of a Stable Diffusion folder, or of its tokenizer/        emptied   training without words
Needs the `tokenizers` package (tadsr_jax[sd]), which is imported when a folder is opened.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
_USUAL = {"bos": START, "eos": END, "pad": END}
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's: what is between them, space, is dropped


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Words -> ids; can be sent to another process."""

    pieces: Any  # tokenizers.Tokenizer, of which the pieces alone are wanted
    start: int
    end: int
    padding: int  # the end token in SD 1, "!" with id 0 in SD 2
    length: int  # ids of a prompt

    def __call__(self, words: str) -> np.ndarray:
        """(length,) int32. Pieces beyond `length` are cut off, silently, as everywhere: lists of tags can be long."""
        pieces = self.pieces.encode(words, add_special_tokens=False).ids[: self.length - 2]
        ids = np.full(self.length, self.padding, np.int32)
        ids[: len(pieces) + 2] = [self.start, *pieces, self.end]
        return ids


def emptied(words: str, rng: np.random.Generator, *, null_text_ratio: float) -> str:
    """`words`, or "" with probability `null_text_ratio`: a model learns to do without, which guidance needs.

    One draw. An example's generator is a function of the seed and the example's number, and so is this.
    """
    return "" if rng.random() < null_text_ratio else words


@functools.lru_cache(maxsize=2)  # checks open it first, the stream again
def open_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer in a Stable Diffusion folder (its tokenizer/), or in `folder` itself.

    vocab.json and merges.txt are read by CLIP's rules; a tokenizer.json holds its own, and is taken where they are not
    there. The folder's settings say the padding token and the length; where they do not: the end token, 77.
    """
    folder = Path(folder)
    folder = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    try:
        import tokenizers
    except ImportError:
        raise ValueError(
            f"{folder}: reading it needs the package tokenizers, which is not installed; install tadsr_jax[sd]."
        ) from None
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        pieces = _read(folder / "vocab.json", lambda path: _clip(path, folder / "merges.txt"))
    elif (folder / "tokenizer.json").is_file():
        pieces = _read(folder / "tokenizer.json", lambda path: tokenizers.Tokenizer.from_file(str(path)))
        pieces.no_truncation()
        pieces.no_padding()
    else:
        raise ValueError(
            f"{folder}: no tokenizer; expected vocab.json and merges.txt, or tokenizer.json, "
            "as in the folder tokenizer/ of Stable Diffusion."
        )
    return _tokenizer(folder, pieces, _settings(folder))


def _tokenizer(folder: Path, pieces, settings: Mapping) -> Tokenizer:
    """With the tokens and the length that the folder's settings name."""
    from tokenizers import AddedToken

    tokens = {key: _text(settings.get(f"{key}_token") or usual) for key, usual in _USUAL.items()}
    ids = {key: pieces.token_to_id(token) for key, token in tokens.items()}
    for key, token in tokens.items():
        if ids[key] is None:
            raise ValueError(f"{folder}: the {key}_token is {token!r}, which its vocabulary lacks.")
    # Wherever such a token stands in the words it stays whole: "wow!" ends in SD 2's padding, for transformers too.
    pieces.add_special_tokens([AddedToken(token, normalized=True) for token in tokens.values()])
    length = settings.get("model_max_length")  # a number beyond reason where it is not known
    length = length if isinstance(length, int) and 2 < length <= 4096 else LENGTH
    return Tokenizer(pieces, ids["bos"], ids["eos"], ids["pad"], length)


def _text(token) -> str:
    """Of a token that is stored as a text, or as a dict with one."""
    return str(token["content"] if isinstance(token, Mapping) and "content" in token else token)


def _clip(vocabulary: Path, merges: Path):
    """CLIP's byte-pair encoding: composed characters, one space for many, lower case; words, bytes, merges.

    The rules of transformers' CLIPTokenizerFast. The public code takes its slow twin, which differs only where a prompt
    has control characters, which it drops, or Chinese ones, which it sets apart.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    merged = models.BPE.from_file(
        str(vocabulary), str(merges), unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>"
    )
    pieces = Tokenizer(merged)
    pieces.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    pieces.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return pieces


def _settings(folder: Path) -> dict:
    """What the folder's two small files say, with the precedence that transformers gives them."""
    places = (folder / "tokenizer_config.json", folder / "special_tokens_map.json")
    config, tokens = (_read(path, _json) if path.is_file() else {} for path in places)
    return config if "added_tokens_decoder" in config else config | tokens


def _json(path: Path) -> dict:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("expected names and values")
    return content


def _read(path: Path, reader):
    """reader(path); whatever that raises for a damaged file is a ValueError of one line."""
    try:
        return reader(path)
    except Exception as error:  # the Rust library raises nothing more special
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path}: damaged, or no file of a tokenizer ({reason}).") from None
