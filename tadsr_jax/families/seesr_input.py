"""What the SeeSR family is given before its networks: sizes of pictures, and prompts.

sizes    through which sizes a picture goes             prompt   tags of a picture and words as one text
These are the rules of the public scripts of SeeSR, AddSR and TAD-SeeSR.
"""

from typing import NamedTuple

MULTIPLE = 8  # sides of a picture are that many times those of its latent
SMALLEST = 512  # of the enlarged picture's sides: what the networks were trained with

ADDED_WORDS = {  # after the tags and the user's words
    "seesr": "clean, high-resolution, 8k",
    "addsr": "clean, high-resolution, 8k, extremely detailed, best quality, sharp",
    "tad_seesr": "clean, high-resolution, 8k, extremely detailed, best quality, sharp",
}
NEGATIVE_WORDS = "dotted, noise, blur, lowres, smooth"  # what guidance leads away from


class Sizes(NamedTuple):
    """(height, width) of a picture on its way; from each to the next it is resized (bicubic), never cropped."""

    lq: tuple[int, int]  # of the picture itself, or of a small one made large enough
    enlarged: tuple[int, int]
    network: tuple[int, int]  # multiples of 8: what the networks see and make, and whose colours the result gets
    output: tuple[int, int]


def sizes(height: int, width: int, *, scale: int = 4, smallest: int = SMALLEST) -> Sizes:
    """The sizes of a picture of `height` x `width`, enlarged `scale` times.

    One whose smaller side would be less than `smallest` after that is resized before, so that it is `smallest`.
    """
    short, least = min(height, width), smallest // scale
    if short < 1:
        raise ValueError(f"The picture is {height}x{width}; expected at least one pixel a side.")
    lq = (height, width)
    if short < least:
        # In whole numbers: the public int(128 / short * side) is a pixel less for a few sizes, such as 127 of 49.
        lq = (least * height // short, least * width // short)
    enlarged = (scale * lq[0], scale * lq[1])
    network = tuple(max(side // MULTIPLE, 1) * MULTIPLE for side in enlarged)
    return Sizes(lq, enlarged, network, (scale * height, scale * width))


def prompt(tags: str, words: str = "", *, added: str = ADDED_WORDS["addsr"]) -> str:
    """The text of a picture: its tags ("cat, dog"), the user's words, and words that are always added.

    "cat, dog, ,clean, high-resolution, 8k": also where a part is empty the commas stay, as the networks know it.
    """
    return f"{tags}, {words},{added}"
