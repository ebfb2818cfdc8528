"""The drawing of the house, held against the code: imports go down only."""

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

PACKAGE = Path(__file__).parent.parent / "tadsr_jax"
FLOORS = {  # room -> floor; docs/architecture.md says what each is for
    **dict.fromkeys(
        [
            "diffusion",
            "losses",
            "images",
            "pictures",
            "degrade",
            "sharding",
            "types",
            "config",
            "assets",
            "signals",
            "cache",
            "folders",
            "releases",
            "tokenizer",
        ],
        0,
    ),
    "networks": 1,
    "families": 2,
    "recipes": 3,
    **dict.fromkeys(("bundles", "checkpoints", "data", "logs", "download"), 4),
    "train": 4,
    **dict.fromkeys(("loop", "upscale", "convert"), 5),
    "evaluate": 6,
    "job": 7,
    "export": 8,
    **dict.fromkeys(("main", "cli", "pipelines"), 9),
    "__main__": 10,  # of a room: what `python -m tadsr_jax.ROOM` runs is the command of that name
}
# Doors between rooms of one floor: degradations are made of picture operations; training reads files as upscaling does.
NEIGHBOURS = {("degrade", "images"), ("images", "pictures")}


def room_of(path: Path) -> str:
    if path.name == "__main__.py":
        return "__main__"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path):
    """(room, line) of every import of this package in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tadsr_jax":
            words = node.module.split(".")[1:]
            yield from ((words[0] if words else alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            yield from ((words[1], node.lineno) for words in names if words[0] == "tadsr_jax" and len(words) > 1)


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(FLOORS), "a room was made or went: say in FLOORS, and in docs/architecture.md, where it belongs"


def test_imports_go_down_only():
    upward = [
        f"{path.relative_to(PACKAGE.parent)}:{line} imports {other} (floor {FLOORS[other]}) from floor {FLOORS[room]}"
        for path in PACKAGE.rglob("*.py")
        if (room := room_of(path)) != "__init__"
        for other, line in imported_rooms(path)
        if other in FLOORS and other != room and FLOORS[other] >= FLOORS[room] and (room, other) not in NEIGHBOURS
    ]
    assert not upward, "\n".join(upward)


def test_importing_the_package_loads_no_training_package():
    import subprocess
    import sys

    code = "import sys, tadsr_jax; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for package in ("jax", "grain", "cv2", "clu", "tensorboardX", "orbax", "tensorflow_datasets", "matplotlib"):
        assert f"'{package}'" not in loaded
