"""A tokenizer of 27 tokens in the files of a Stable Diffusion folder: "cat" and "sofa" are words, the rest letters."""

import json
from pathlib import Path

LETTERS = "!catsof,8k"  # ids 0 to 9 inside of a word, 10 to 19 at its end
MERGES = ("c a", "ca t</w>", "s o", "f a</w>", "so fa</w>")  # ids 20 to 24
START, END = 25, 26
CAT, COMMA, SOFA = 21, 17, 24
LENGTH = 8


def write(folder: Path, **settings) -> Path:
    """The files of tokenizer/ below `folder`, a Stable Diffusion 2 one: its padding is "!", whose id is 0."""
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *(merge.replace(" ", "") for merge in MERGES)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    place = folder / "tokenizer"
    place.mkdir(parents=True)
    (place / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    (place / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    config = {"pad_token": "<|endoftext|>", "model_max_length": LENGTH, **settings}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
