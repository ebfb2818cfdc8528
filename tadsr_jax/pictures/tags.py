"""Directories of tags, the skeleton of both TIFF and EXIF: read from a file, written, and picked from.

start          byte order of a block and where its first directory stands
directory      one directory -> {number: Tag} and where the next one stands
serialise      tags, with directories inside directories -> bytes
upright        an EXIF block whose orientation is 1 and whose thumbnail is gone, all else as it was
sized          ... and that tells the size of a new picture
descriptive    what an EXIF block can say, out of the first directory of a TIFF, and the other way round

TIFF revision 6.0, section 2; EXIF 2.3 is a TIFF without a picture. What is read comes from strangers: nothing is
believed that does not fit into the file, and no chain of directories is followed twice.
"""

import io
import struct
from typing import BinaryIO, NamedTuple

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # type -> bytes
FORMATS = {1: "B", 3: "H", 4: "I", 13: "I"}  # unsigned integers of `values`
MOST = 2**26  # bytes of values of one directory: a layered TIFF hides hundreds of megabytes in a private tag
PREFIX = b"Exif\0\0"

ORIENTATION, XMP, ICC = 274, 700, 34675
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
EXIF, GPS, INTEROPERABILITY = 34665, 34853, 40965
PIXELS_WIDE, PIXELS_HIGH = 40962, 40963
# Tags of a first directory that speak of the photograph, not of how its samples are stored.
DESCRIPTIVE = (
    269, 270, 271, 272, ORIENTATION, X_RESOLUTION, Y_RESOLUTION, 285, RESOLUTION_UNIT, 305, 306, 315, 316,
    18246, 18249, 33432, EXIF, GPS, 36867, 40091, 40092, 40093, 40094, 40095, 42032, 42033, 42036,
)  # fmt: skip


class Tag(NamedTuple):
    """A value as stored: `data` in the byte order of the file, found at `at`."""

    type: int
    count: int
    data: bytes
    at: int = 0


def start(file: BinaryIO) -> tuple[str, int]:
    """("<" or ">", offset of the first directory) of a TIFF or EXIF block; ValueError for all else, BigTIFF too."""
    file.seek(0)
    head = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None or len(head) < 8:
        raise ValueError("no TIFF block")
    return order, struct.unpack(order + "I", head[4:])[0]


def directory(file: BinaryIO, order: str, at: int) -> tuple[dict[int, Tag], int]:
    """The tags of the directory at `at`, and the offset of the next (0: none); without what lies outside the file."""
    file.seek(at)
    count = file.read(2)
    end = 12 * struct.unpack(order + "H", count.rjust(2, b"\0"))[0]
    body = file.read(end + 4)
    if len(count) < 2 or len(body) < end:
        raise ValueError("a directory of tags ends too early")
    tags, total = {}, 0
    for place in range(0, end, 12):
        number, kind, count, inline = struct.unpack(order + "HHI4s", body[place : place + 12])
        length = SIZES.get(kind, MOST) * count
        total += length if length > 4 else 0
        if length > MOST or total > MOST:
            total -= length if length > 4 else 0
            continue
        value_at = at + 2 + place + 8
        if length > 4:
            value_at = struct.unpack(order + "I", inline)[0]
            file.seek(value_at)
            inline = file.read(length)
        if len(inline) >= length:
            tags[number] = Tag(kind, count, inline[:length], value_at)
    return tags, struct.unpack(order + "I", body[end:])[0] if len(body) == end + 4 else 0


def values(tag: Tag | None, order: str) -> tuple[int, ...]:
    """The numbers of an integer tag; empty where there is none, or one of another type."""
    if tag is None or tag.type not in FORMATS:
        return ()
    return struct.unpack(f"{order}{tag.count}{FORMATS[tag.type]}", tag.data)


def ratio(tag: Tag | None, order: str) -> float | None:
    """The value of a RATIONAL tag."""
    if tag is None or tag.type != 5 or not tag.count:
        return None
    over, under = struct.unpack(order + "II", tag.data[:8])
    return over / under if under else None


def serialise(tags: dict[int, "Tag | dict"], order: str, at: int) -> bytes:
    """A directory for the offset `at`: entries by number, then long values, then directories inside (values: dicts)."""
    entries, behind = [], b""
    beside = at + 2 + 12 * len(tags) + 4
    for number, tag in sorted(tags.items()):
        if isinstance(tag, dict):
            behind += b"\0" * (len(behind) % 2)
            inside = serialise(tag, order, beside + len(behind))
            entries.append(struct.pack(order + "HHII", number, 4, 1, beside + len(behind)))
            behind += inside
        elif len(tag.data) <= 4:
            entries.append(struct.pack(order + "HHI", number, tag.type, tag.count) + tag.data.ljust(4, b"\0"))
        else:
            behind += b"\0" * (len(behind) % 2)
            entries.append(struct.pack(order + "HHII", number, tag.type, tag.count, beside + len(behind)))
            behind += tag.data
    return struct.pack(order + "H", len(entries)) + b"".join(entries) + b"\0\0\0\0" + behind


# --- EXIF blocks ----------------------------------------------------------------------------------------------------


def upright(exif: bytes) -> tuple[bytes, int | None]:
    """An EXIF block with orientation 1 and without thumbnail, and the orientation that it had, if any.

    Changed in place, because makers' notes hold offsets that nobody else can move. ValueError where it is damaged.
    """
    block = bytearray(exif.removeprefix(PREFIX))
    file = io.BytesIO(block)
    order, first = start(file)
    tags, behind = directory(file, order, first)
    orientation = (values(tags.get(ORIENTATION), order) or (None,))[0]
    _patch(block, tags.get(ORIENTATION), 1, order)
    if behind:  # the second directory describes the thumbnail
        entries = struct.unpack_from(order + "H", block, first)[0]
        struct.pack_into(order + "I", block, first + 2 + 12 * entries, 0)
        block = _without_tail(block, file, order, behind)
    directory(io.BytesIO(block), order, first)
    return PREFIX + bytes(block), orientation


def _without_tail(block: bytearray, file: BinaryIO, order: str, at: int) -> bytearray:
    """Cut the thumbnail off where it is the last thing in the block; elsewhere it stays, as bytes nobody points to."""
    try:
        thumbnail, _ = directory(file, order, at)
    except ValueError:
        return block
    place, length = (values(thumbnail.get(number), order) or (0,) for number in (0x0201, 0x0202))
    return block[: place[0]] if place[0] and place[0] + length[0] >= len(block) else block


def sized(exif: bytes, height: int, width: int) -> bytes:
    """The EXIF block of a picture of another size: where it tells pixels, it tells the new ones."""
    block = bytearray(exif.removeprefix(PREFIX))
    file = io.BytesIO(block)
    try:
        order, first = start(file)
        outer, _ = directory(file, order, first)
        inner, _ = directory(file, order, values(outer.get(EXIF), order)[0])
    except (ValueError, IndexError):
        return exif
    for number, length in ((PIXELS_WIDE, width), (PIXELS_HIGH, height)):
        _patch(block, inner.get(number), length, order)
    return PREFIX + bytes(block)


def _patch(block: bytearray, tag: Tag | None, value: int, order: str) -> None:
    """Set a tag of one integer; left alone where the type cannot hold it."""
    if tag is not None and tag.type in FORMATS and tag.count == 1 and value < 256 ** SIZES[tag.type]:
        struct.pack_into(order + FORMATS[tag.type], block, tag.at, value)


def descriptive(file: BinaryIO, order: str, tags: dict[int, Tag]) -> dict[int, Tag | dict]:
    """Of a first directory, what EXIF may say, with the directories inside it read."""
    chosen: dict[int, Tag | dict] = {number: tag for number, tag in tags.items() if number in DESCRIPTIVE}
    for number in (EXIF, GPS):
        if number in chosen:
            chosen[number] = _inside(file, order, tags[number])
    if isinstance(chosen.get(EXIF), dict) and INTEROPERABILITY in chosen[EXIF]:
        chosen[EXIF][INTEROPERABILITY] = _inside(file, order, chosen[EXIF][INTEROPERABILITY])
    return {number: tag for number, tag in chosen.items() if tag != {}}


def _inside(file: BinaryIO, order: str, pointer: Tag) -> dict[int, Tag]:
    try:
        return directory(file, order, values(pointer, order)[0])[0]
    except (ValueError, IndexError):
        return {}


def exif_of(file: BinaryIO, order: str, tags: dict[int, Tag]) -> bytes | None:
    """The EXIF block that says what a TIFF says; None where that is resolution or orientation alone."""
    chosen = descriptive(file, order, tags)
    if not set(chosen) - {ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT}:
        return None
    head = b"II*\0" if order == "<" else b"MM\0*"
    return PREFIX + head + struct.pack(order + "I", 8) + serialise(chosen, order, 8)


def of_exif(exif: bytes | None) -> tuple[str, dict[int, Tag | dict]]:
    """Byte order and tags for the first directory of a TIFF, out of an EXIF block; empty where it is damaged."""
    file = io.BytesIO((exif or b"").removeprefix(PREFIX))
    try:
        order, first = start(file)
        return order, descriptive(file, order, directory(file, order, first)[0])
    except ValueError:
        return "<", {}
