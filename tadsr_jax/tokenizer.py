"""Words as the ids that a text encoder reads: CLIP's byte-pair encoding, with the vocabulary of the user's own files.

    "Cat, sofa" -> 49406 2368 267 15723 49407 0 0 ... 0      start, pieces, end, padding up to 77

files_of         what a folder of Stable Diffusion, or a bundle, holds of a tokenizer: {name: text}
read             a Tokenizer of such texts                    open_tokenizer   of a folder
Needs the `tokenizers` package (tadsr_jax[sd]), which is imported when a tokenizer is made.
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
PAIR, WHOLE = ("vocab.json", "merges.txt"), "tokenizer.json"  # the two forms of a tokenizer
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
FILES = (*PAIR, WHOLE, *SETTINGS)
LARGEST = 2**26  # bytes of a file; the largest in use have a tenth
_PLACES = ("tokenizer", "texts")  # of the files in a folder of Stable Diffusion, and in a bundle
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

    @property
    def largest(self) -> int:
        """The largest id that any words can have."""
        return max(self.pieces.get_vocab(with_added_tokens=True).values())

    def __call__(self, words: str) -> np.ndarray:
        """(length,) int32. Pieces beyond `length` are cut off, silently, as everywhere: lists of tags can be long."""
        pieces = self.pieces.encode(words, add_special_tokens=False).ids[: self.length - 2]
        ids = np.full(self.length, self.padding, np.int32)
        ids[: len(pieces) + 2] = [self.start, *pieces, self.end]
        return ids


def files_of(folder: Path | str) -> dict[str, str]:
    """{name: text} of the tokenizer in a folder of Stable Diffusion, in a bundle, or in `folder` itself.

    Raises ValueError where there is none, and for files that are no text.
    """
    folder = _place(folder)
    texts = {name: _text_of(folder / name) for name in FILES if (folder / name).is_file()}
    if not is_complete(texts):
        raise ValueError(
            f"{folder}: no tokenizer; expected vocab.json and merges.txt, or tokenizer.json, "
            "as in the folder tokenizer/ of Stable Diffusion."
        )
    return texts


def is_complete(texts: Mapping[str, str]) -> bool:
    """Whether there is a tokenizer among the texts."""
    return WHOLE in texts or all(name in texts for name in PAIR)


@functools.lru_cache(maxsize=2)  # checks open it first, the stream again
def open_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer in a folder, see `files_of`."""
    return read(files_of(folder), source=str(_place(folder)))


def read(texts: Mapping[str, str], *, source: str) -> Tokenizer:
    """The tokenizer of texts, of which `source` is told in errors; texts of other names are left alone.

    vocab.json and merges.txt are read by CLIP's rules; a tokenizer.json holds its own, and is taken where they are not
    there. The settings say the padding token and the length; where they do not: the end token, 77.
    """
    try:
        import tokenizers
    except ImportError:
        raise ValueError(
            f"{source}: reading it needs the package tokenizers, which is not installed; install tadsr_jax[sd]."
        ) from None
    if all(name in texts for name in PAIR):
        pieces = _read(source, PAIR[0], lambda: _clip(*(texts[name] for name in PAIR)))
    else:
        pieces = _read(source, WHOLE, lambda: tokenizers.Tokenizer.from_str(texts[WHOLE]))
        pieces.no_truncation()
        pieces.no_padding()
    return _tokenizer(source, pieces, _settings(source, texts))


def _place(folder: Path | str) -> Path:
    folder = Path(folder)
    return next((folder / name for name in _PLACES if (folder / name).is_dir()), folder)


def _text_of(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes are too many for a file of a tokenizer.")
    return _read(path.parent, path.name, lambda: path.read_text(encoding="utf-8"))


def _tokenizer(source: str, pieces, settings: Mapping) -> Tokenizer:
    """With the tokens and the length that the settings name."""
    from tokenizers import AddedToken

    tokens = {key: _content(settings.get(f"{key}_token") or usual) for key, usual in _USUAL.items()}
    ids = {key: pieces.token_to_id(token) for key, token in tokens.items()}
    for key, token in tokens.items():
        if ids[key] is None:
            raise ValueError(f"{source}: the {key}_token is {token!r}, which its vocabulary lacks.")
    # Wherever such a token stands in the words it stays whole: "wow!" ends in SD 2's padding, for transformers too.
    pieces.add_special_tokens([AddedToken(token, normalized=True) for token in tokens.values()])
    length = settings.get("model_max_length")  # a number beyond reason where it is not known
    length = length if isinstance(length, int) and 2 < length <= 4096 else LENGTH
    return Tokenizer(pieces, ids["bos"], ids["eos"], ids["pad"], length)


def _content(token) -> str:
    """Of a token that is stored as a text, or as a dict with one."""
    return str(token["content"] if isinstance(token, Mapping) and "content" in token else token)


def _clip(vocabulary: str, merges: str):
    """CLIP's byte-pair encoding: composed characters, one space for many, lower case; words, bytes, merges.

    The rules of transformers' CLIPTokenizerFast. The public code takes its slow twin, which differs only where a prompt
    has control characters, which it drops, or Chinese ones, which it sets apart.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    pairs = [tuple(line.split(" ")) for line in merges.split("\n") if line and not line.startswith("#version")]
    merged = models.BPE(
        json.loads(vocabulary), pairs, unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>"
    )
    pieces = Tokenizer(merged)
    pieces.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    pieces.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return pieces


def _settings(source: str, texts: Mapping[str, str]) -> dict:
    """What the two small files say, with the precedence that transformers gives them."""
    config, tokens = (_read(source, name, functools.partial(_object, texts.get(name, "{}"))) for name in SETTINGS)
    return config if "added_tokens_decoder" in config else config | tokens


def _object(text: str) -> dict:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("expected names and values")
    return content


def _read(source: Path | str, name: str, reader):
    """reader(); whatever that raises for a damaged file is a ValueError of one line."""
    try:
        return reader()
    except Exception as error:  # the Rust library raises nothing more special
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{Path(source) / name}: damaged, or no file of a tokenizer ({reason}).") from None
