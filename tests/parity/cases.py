"""The format of a recorded case: where it lies, what goes in, what must come out."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from tests.parity import synth


def _list_file(name: str, root: Path) -> Path:
    """The shared list `name` of the fixtures at `root`: in that folder, or in the nearest parent that has it."""
    for folder in (root, *root.parents):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"@{name}: not in {root} nor in a folder above it.")


@dataclasses.dataclass(frozen=True)
class Case:
    """One folder with a `case.json`. `root` is the folder that was asked for; lists are looked up from there."""

    folder: Path
    root: Path

    @cached_property
    def spec(self) -> dict:
        return json.loads((self.folder / "case.json").read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        path = self.folder / "arrays.npz"
        return dict(np.load(path, allow_pickle=False)) if path.exists() else {}

    @property
    def name(self) -> str:
        return self.folder.relative_to(self.root).as_posix()

    @property
    def kind(self) -> str:
        return self.spec.get("kind", "(no kind)")

    @property
    def config(self) -> dict:
        return self.spec["config"]

    @property
    def outputs(self) -> dict[str, dict]:
        return self.spec["outputs"]

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        """Every input as the public code took it (PyTorch layout)."""
        return {key: self._make_input(key, spec) for key, spec in self.spec.get("inputs", {}).items()}

    def _make_input(self, key: str, spec) -> np.ndarray:
        if spec == "arrays":
            return self.arrays[key]
        made = getattr(synth, spec["synth"])(spec["name"], spec["shape"], spec["seed"])
        return np.float32(spec.get("scale", 1)) * made + np.float32(spec.get("shift", 0))

    def _of_part(self, key: str, part: str | None):
        """The entry `key` of the case, or of one network (`part`) where the case has several."""
        value = self._listed(self.spec.get(key))
        if part is None or not isinstance(value, dict):
            return value
        if part in value:
            listed = self._listed(value[part])
            return listed.get(part, listed) if listed is not value[part] else listed
        if key != "shapes" and any(isinstance(v, dict) for v in value.values()):
            return {}  # overrides by part, none for this one
        return value

    def _listed(self, value):
        """The content of the shared list that an entry names, or the entry itself."""
        if isinstance(value, str) and value.startswith("@"):
            return json.loads(_list_file(value[1:], self.root).read_text())
        return value

    def shapes(self, part: str | None = None) -> dict[str, list[int]]:
        """{public parameter name: shape in PyTorch layout} of the case's network, or of its part."""
        return self._of_part("shapes", part)

    def weights(self, part: str | None = None) -> dict[str, np.ndarray]:
        """{public parameter name: array in PyTorch layout}, synthesised."""
        return synth.weights(self.shapes(part), self._of_part("seed", part), self._of_part("overrides", part))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a case ended. `worst`: the largest error as a share of its tolerance; `why`: the output, or the error."""

    worst: float
    why: str

    @property
    def passed(self) -> bool:
        return self.worst <= 1


def find(root: Path) -> Iterator[Case]:
    """Every case below `root`, in the order of their paths."""
    root = Path(root).absolute()  # a relative path has no parents to look for lists in
    for path in sorted(root.rglob("case.json")):
        yield Case(path.parent, root)


def _share(got, want, *, rtol: float, atol: float) -> float:
    """Largest |got - want| / (atol + rtol |want|); 0 where they are equal, infinite where shapes or NaNs differ."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.size != want.size:
        return np.inf
    got = got.reshape(want.shape)
    error = np.where(got == want, 0.0, np.abs(got - want))
    tolerance = atol + rtol * np.abs(want)
    share = np.where(error == 0, 0.0, error / np.where(tolerance == 0, np.finfo(float).tiny, tolerance))
    return float(np.max(share, initial=0.0)) if not np.isnan(share).any() else np.inf


def _sliced(array, expression: str | None):
    """`array[expression]`, the expression being NumPy's index notation such as '..., ::4, 1:3' or '[:, 0]'."""
    if not expression:
        return array
    text = expression.strip().removeprefix("[").removesuffix("]")
    items = []
    for item in text.split(","):
        item = item.strip()
        if item == "...":
            items.append(Ellipsis)
        elif ":" in item:
            items.append(slice(*(int(n) if n.strip() else None for n in item.split(":"))))
        elif item:
            items.append(int(item))
    return np.asarray(array)[tuple(items)]


def check(case: Case, runner: Callable[[Case], dict]) -> Verdict:
    """Run the case and compare every recorded output. A runner that raises fails the case with its message."""
    try:
        results = runner(case)
    except Exception as error:  # one broken case must not hide the others
        return Verdict(np.inf, f"{type(error).__name__}: {error}")
    verdict = Verdict(0.0, "")
    for key, spec in case.outputs.items():
        if key not in results:
            return Verdict(np.inf, f"{key}: the runner returned nothing under this name")
        got = _sliced(results[key], spec.get("slice"))
        share = _share(got, case.arrays[key], rtol=spec["rtol"], atol=spec["atol"])
        if share > verdict.worst:
            verdict = Verdict(share, key)
    return verdict
