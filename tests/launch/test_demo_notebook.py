"""The notebook: it runs from start to end with a tiny bundle, shows what it made, and is stored without outputs."""

import base64
import io
import os
import re
import sys
import types
from pathlib import Path

import jax
import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from PIL import Image

from tadsr_jax import bundles, cli, pictures
from tadsr_jax.data import demo
from tests.toys import randomised

ROOT = Path(__file__).parents[2]
FILE = ROOT / "launch" / "demo.ipynb"
SETTINGS = {  # of `tests.toys.tiny_family`: twice enlarged
    "scale": 2,
    "denoiser": {"kind": "small", "latent_channels": 12, "widths": [32], "blocks": 1, "embed_dim": 8},
    "autoencoder": {"kind": "space_to_depth", "factor": 2},
    "diffusion": {"num_steps": 3, "kappa": 0.2},
    "condition_on_z_y": True,
}
OWN = ("own", "own-upscale", "own-slider")
CELLS = {cell.id: cell for cell in nbformat.read(FILE, as_version=4).cells}


@pytest.fixture(scope="module")
def shapes():
    return bundles.expected_shapes(bundles.FAMILIES["resshift"](**SETTINGS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shapes):
    """Where the notebook is run: with a bundle, and a picture of 16 bits whose right half is invisible."""
    folder = tmp_path_factory.mktemp("notebook")
    params = randomised(shapes, deviation=0.05)
    bundles.save(folder / "bundle", family="resshift", settings=SETTINGS, params=params, info={"steps": 1})
    pixels = np.random.default_rng(0).integers(20_000, 45_000, (20, 30, 4), np.uint16)
    pixels[..., 3] = np.where(np.arange(30) < 15, 65535, 0)
    pictures.write(folder / "mine.png", pixels)
    return folder


@pytest.fixture(scope="module")
def executed(folder):
    """{id: outputs} of the notebook, and of its last part again ("... again") with a picture of one's own."""
    notebook = nbformat.read(FILE, as_version=4)
    give = nbformat.v4.new_code_cell('os.environ["TADSR_DEMO_PICTURE"] = "mine.png"', id="give")
    again = [nbformat.v4.new_code_cell(CELLS[name].source, id=f"{name}-again") for name in OWN]
    notebook.cells += [give, *again]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TADSR_DEMO_WEIGHTS", "bundle")
        patch.delenv("TADSR_DEMO_PICTURE", raising=False)
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def said(outputs) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def shown(outputs) -> list[np.ndarray]:
    """The pictures in the HTML that a cell ends with, the lower one of a slider first."""
    (html,) = (output.data["text/html"] for output in outputs if output.output_type == "execute_result")
    uris = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert html.count("<img") == len(uris)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]


# ---- run from start to end -------------------------------------------------------------------------------------------


def test_it_says_what_it_runs_on_and_with(executed, shapes):
    assert re.search(r"tadsr_jax \S+ on \[.*Device.*\], computing in (float32|bfloat16)", said(executed["device"]))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert said(executed["model"]) == f"x2, {count:,} parameters, 1 step(s)\n"
    assert said(executed["install"]) == ""


def test_the_sample_is_enlarged_from_half_its_size(executed):
    assert re.match(r"358x224 -> 716x448 pixels in \S+ s; \S+ s the first time", said(executed["sample"]))


def test_a_detail_is_shown_before_and_after_and_beside_the_photograph(executed):
    before, after, photograph = shown(executed["sample"])
    assert before.shape == after.shape == photograph.shape == (288, 288, 3)
    truth = np.asarray(Image.open(demo.FOLDER / "validation" / "matterhorn.jpg"))
    np.testing.assert_array_equal(photograph, truth[80:368, 214:502])  # the middle, pixel for pixel


def test_a_slider_shows_the_whole_pair(executed):
    after, before = shown(executed["sample-slider"])
    assert before.shape == after.shape == (448, 716, 3)
    # What is before is the photograph but for its detail; the random model makes something else of it.
    truth = np.asarray(Image.open(demo.FOLDER / "validation" / "matterhorn.jpg"), np.float32)
    assert np.abs(before - truth).mean() < 10 < np.abs(after - truth).mean()
    (output,) = executed["sample-slider"]
    assert output.data["text/html"].count('type="range"') == 1


def test_without_a_picture_of_ones_own_another_photograph_is_enlarged_and_saved(executed, folder):
    assert re.match(r"rocks\n\d+ tile\(s\) of \S+ -> 512x342 pixels", said(executed["own"]))
    assert re.search(r"\r(\d+) of \1 tile\(s\)\nresults/rocks_x2.png\n$", said(executed["own-upscale"]))
    saved = np.asarray(Image.open(folder / "results" / "rocks_x2.png"))
    after, before = shown(executed["own-slider"])
    assert before.shape == saved.shape == (342, 512, 3)
    np.testing.assert_array_equal(after, saved)


def test_a_picture_of_ones_own_keeps_its_alpha_and_bits(executed, folder):
    assert said(executed["own-again"]).startswith("mine\n1 tile(s)")
    saved = pictures.read(folder / "results" / "mine_x2.png").pixels
    assert saved.shape == (40, 60, 4) and saved.dtype == np.uint16
    after, before = shown(executed["own-slider-again"])
    assert before.shape == after.shape == (40, 60, 3)
    assert (before[:, -20:] == 255).all() and (after[:, -20:] == 255).all()  # what is invisible lies on white paper
    assert [detail.shape for detail in shown(executed["own-upscale-again"])] == [(40, 40, 3)] * 2


def test_it_leaves_nothing_but_results(executed, folder):
    assert {path.name for path in folder.iterdir()} == {"bundle", "mine.png", "results"}


# ---- what a person may have forgotten --------------------------------------------------------------------------------


def run_cell(cell: str, /, **namespace) -> dict:
    """Run one cell here; the names that there are after it."""
    exec(TransformerManager().transform_cell(CELLS[cell].source), namespace)
    return namespace


def test_without_the_package_it_asks_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="REPOSITORY is empty: fill in the address"):
        run_cell("install")


def test_without_weights_and_configs_it_asks_for_a_bundle(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TADSR_DEMO_WEIGHTS", raising=False)
    package = types.SimpleNamespace(__file__=str(tmp_path / "tadsr_jax" / "__init__.py"))
    with pytest.raises(ValueError, match="WEIGHTS is empty, and no checkout"):
        run_cell("model", tadsr_jax=package, Path=Path)


# ---- on Colab --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uploaded", [{}, {"mine.png": b"..."}])
def test_colab_asks_for_a_file_and_offers_the_result(monkeypatch, tmp_path, capsys, uploaded):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TADSR_DEMO_PICTURE", raising=False)
    offered, pixels = [], np.full((4, 6, 3), 99, np.uint8)
    pictures.write("mine.png", pixels)  # Colab saves what is uploaded
    colab = types.ModuleType("google.colab")
    colab.files = types.SimpleNamespace(upload=lambda: uploaded, download=offered.append)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)

    class Doubling:
        scale = 2

        def plan(self, height, width):
            return f"plan of {width}x{height}"

        def __call__(self, image, progress):
            return image.repeat(2, 0).repeat(2, 1)

    own = run_cell("own", upscaler=Doubling(), pictures=pictures, reduced=lambda _: (0, pixels[:2]), Path=Path, os=os)
    run_cell("own-upscale", side_by_side=lambda before, after: None, **own)
    name, size = ("mine", "6x4") if uploaded else ("rocks", "6x2")
    assert capsys.readouterr().out.startswith(f"{name}\nplan of {size}\n")
    assert offered == [str(Path("results") / f"{name}_x2.png")] and Path(offered[0]).is_file()


# ---- the file --------------------------------------------------------------------------------------------------------


def test_it_is_stored_valid_without_outputs_and_with_names_for_its_cells():
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", cell.id) for cell in notebook.cells)
    assert len(CELLS) == len(notebook.cells)


def test_it_names_no_place_of_one_machine():
    text = FILE.read_text()
    assert not re.search(r"/(home|root|tmp|content|Users|mnt|opt|srv|work)\b|[A-Z]:\\\\|file://", text)


def test_every_photograph_that_it_offers_is_there():
    offered = re.search(r"SAMPLE = .*@param \[(.*)\]", CELLS["sample"].source)[1].replace('"', "").split(", ")
    names = {path.stem for path in demo.paths(is_training=False)}
    assert {*offered, "rocks"} <= names


def test_the_commands_and_files_that_it_names_exist():
    text = "\n".join(cell.source for cell in CELLS.values())
    commands = set(re.findall(r"tadsr ([a-z]+)", text))
    assert commands == {"upscale", "convert", "download", "export"} == {*cli.COMMANDS}
    files = re.findall(r"`((?:docs/|tadsr_jax/)?[\w/]+\.(?:md|py))`", text)
    assert len(files) >= 4 and all((ROOT / file).is_file() for file in files)
