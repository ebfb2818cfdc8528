"""tadsr convert: what it prints, what it refuses in one line, and that no file runs anything."""

import importlib
import json
import os
import pickle
import struct
import types
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from tadsr_jax import bundles, cli
from tadsr_jax.convert import names, torch_file, torch_save
from tadsr_jax.families import FAMILIES
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator
from tests.parity.cases import Case

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASE = Case(FIXTURES / "image_to_image/one_step_chopped", FIXTURES)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with unet.pth, autoencoder.pth and config.json."""
    folder = tmp_path_factory.mktemp("files")
    for part in ("unet", "autoencoder"):
        torch_save.write(folder / f"{part}.pth", CASE.weights(part))
    (folder / "config.json").write_text(json.dumps(CASE.config))
    return folder


@pytest.fixture
def tadsr(capsys, monkeypatch, tmp_path):
    """Calls `tadsr convert ARGV` in a folder of its own -> (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*argv):
        with pytest.raises(SystemExit) as ended:
            cli.main(["convert", *map(str, argv)])
        return ended.value.code or 0, *capsys.readouterr()

    return call


def from_public(files, *more):
    """The arguments of a conversion."""
    parts = ("--unet", files / "unet.pth", "--autoencoder", files / "autoencoder.pth")
    return ("resshift", *parts, "--config", files / "config.json", "-o", "bundle", *more)


def refusal(ended) -> str:
    code, out, err = ended
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_weights_become_a_bundle_and_a_network_of_it_a_file_again(tadsr, files):
    code, out, err = tadsr(*from_public(files))
    assert (code, err) == (0, "")
    info = bundles.describe("bundle")
    lines = out.splitlines()
    assert lines[0] == "model: x4, 1 step(s), deterministic"
    assert lines[-1] == "-> bundle; next: tadsr upscale photo.png --weights bundle"
    for network in info["networks"].values():
        assert network["sha256"] in out and f"{network['parameters']:,} parameters in" in out
    code, out, _ = tadsr("bundle", "--to", "torch", "--part", "student", "-o", "back/student.pth")
    assert code == 0 and out.startswith("student of bundle (UNetModelSwin): ")
    assert f"-> back/student.pth  SHA-256 {bundles.file_sha256(Path('back/student.pth'))}" in out
    back = torch_file.read("back/student.pth")
    for name, array in CASE.weights("unet").items():
        np.testing.assert_array_equal(back[name], array)


def test_the_report_can_be_one_object(tadsr, files):
    code, out, _ = tadsr(*from_public(files, "--json", "--steps", 4, "--sampler", "stochastic"))
    report = json.loads(out)
    assert code == 0 and report["bundle"] == "bundle" and (report["steps"], report["sampler"]) == (4, "stochastic")
    assert set(report["networks"]) == {"student", "autoencoder"}
    _, out, _ = tadsr("bundle", "--to", "torch", "--part", "autoencoder", "-o", "a.safetensors", "--json")
    assert json.loads(out)["sha256"] == bundles.file_sha256(Path("a.safetensors"))


def test_a_file_can_be_listed(tadsr, files):
    code, out, _ = tadsr("--list", files / "autoencoder.pth")
    assert code == 0 and "quantize.embedding.weight  16x3  float32" in out.splitlines()
    _, out, _ = tadsr("--list", files / "autoencoder.pth", "--json")
    assert json.loads(out)["quantize.embedding.weight"] == {"shape": [16, 3], "dtype": "float32"}


class Runs:
    """Pickles as the call `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def in_a_zip(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")


def of_before_1_6(path, pickled):
    magic, version = torch_file.LEGACY
    header = [pickle.dumps(part, 2) for part in (magic, version, {"little_endian": True})]
    path.write_bytes(b"".join([*header, pickled, pickle.dumps([], 2)]))


@pytest.mark.parametrize("write", [in_a_zip, of_before_1_6])
@pytest.mark.parametrize("part", ["unet", "autoencoder"])
@pytest.mark.parametrize(
    "hostile",
    [
        lambda trace: {"state_dict": {"w": Runs(os.system, f"touch {trace}")}},
        lambda trace: {"w": np.zeros(1), "x": Runs(exec, f"open({str(trace)!r}, 'w')")},
        lambda trace: Runs(os.mkdir, str(trace)),
    ],
)
def test_nothing_that_a_file_holds_is_executed(tadsr, files, tmp_path, hostile, part, write):
    trace = tmp_path / "trace"
    pickled = pickle.dumps(hostile(trace), 2)
    pickle.loads(pickled)  # it does what it says where somebody lets it
    assert trace.exists()
    trace.rmdir() if trace.is_dir() else trace.unlink()
    write(tmp_path / "hostile.pth", pickled)
    message = refusal(tadsr(*from_public(files, f"--{part}", tmp_path / "hostile.pth")))
    assert "hostile.pth" in message and "Nothing was executed" in message
    assert not trace.exists() and not Path("bundle").exists()


def test_a_file_that_moves_the_cursor_is_refused_in_plain_letters(tadsr, files, tmp_path):
    header = json.dumps({"\x1b[2Jw\n": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    message = refusal(tadsr(*from_public(files, "--unet", tmp_path / "a.safetensors")))
    assert "\x1b" not in message and r"1 surplus: '\x1b[2Jw\n'" in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "no SOURCE; expected resshift, seesr, or the folder of a bundle or of a training run"),
        (("resshift", "--unet", "a.pth"), "no -o"),
        (("resshift", "-o", "b"), "no --unet"),
        (
            ("ressift", "--unet", "a.pth", "-o", "b"),
            "SOURCE is 'ressift'; expected resshift, seesr, or a folder with --to torch or --to diffusers",
        ),
        (("resshift", "--unet", "a.pth", "-o", "b", "--part", "ema"), "--part cannot go with SOURCE resshift"),
        (("resshift", "--unet", "a.pth", "-o", "b"), "a.pth: the name of the file is not that of a public U-Net"),
        (
            ("resshift", "--unet", "a.pth", "-o", "b", "--preset", "sinsr"),
            "preset is 'sinsr'; expected one of resshift-",
        ),
        (("resshift", "--unet", "SinSR_v1.pth", "-o", "b"), "add --autoencoder autoencoder_vq_f4.pth"),
        (
            ("resshift", "--unet", "SinSR_v1.pth", "--autoencoder", "x.pth", "-o", "b"),
            "SinSR_v1.pth: cannot be read: No such file or directory. x.pth: cannot be read",
        ),
        (("resshift", "--unet", "a.pth", "-o", "b", "--config", "none.json"), "none.json: cannot be read"),
        (("nowhere", "--to", "torch", "--part", "ema", "-o", "a.pth"), "SOURCE nowhere is no folder"),
        (("x", "--to", "torch", "-o", "a.pth", "--unet", "a.pth"), "--unet cannot go with --to torch"),
        (("--list", "a.pth", "-o", "b"), "-o cannot go with --list"),
        (("--list", "a.pth"), "a.pth: cannot be read"),
        (("--list", "a.pth", "--model", "a"), "--model cannot go with --list"),
        (("seesr", "--sd", "a", "-o", "b"), "no --model; expected the folder with unet/ and controlnet/ of SeeSR"),
        (("seesr", "--model", "a"), "no -o"),
        (
            ("seesr", "--model", "a", "--unet", "u.pth", "--config", "c.json", "-o", "b"),
            "--unet, --config cannot go with SOURCE seesr",
        ),
        (("seesr", "--model", "a", "--part", "ema", "-o", "b"), "--part cannot go with SOURCE seesr"),
        (("resshift", "--unet", "a.pth", "--sd", "a", "-o", "b"), "--sd cannot go with SOURCE resshift"),
        (("seesr", "--model", "addsr", "-o", "b"), "addsr: no such folder"),
        (("nowhere", "--to", "diffusers", "-o", "a"), "SOURCE nowhere is no folder; expected the folder of a bundle"),
        (("x", "--to", "diffusers", "-o", "a", "--part", "ema"), "--part cannot go with --to diffusers"),
        (("x", "--to", "diffusers", "-o", "a", "--ram", "r"), "--ram cannot go with --to diffusers"),
    ],
)
def test_wrong_use_is_one_line_with_a_remedy(tadsr, argv, words):
    assert words in refusal(tadsr(*argv))


@pytest.fixture(scope="module")
def bundle(files, tmp_path_factory):
    from tadsr_jax.convert import public

    folder = tmp_path_factory.mktemp("made") / "bundle"
    public.resshift(files / "unet.pth", files / "autoencoder.pth", config=files / "config.json", output=folder)
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "a.pth"), "no --part; the networks of"),
        (("-o", "a.pth", "--part", "ema"), "--part is 'ema'; the networks of"),
        (
            ("-o", "a.onnx", "--part", "student"),
            "the suffix says which format to write; expected one of .safetensors, .pth",
        ),
        (("-o", "a.pth", "--part", "student", "--step", "3"), "--step belongs to a training run"),
    ],
)
def test_a_part_that_cannot_be_written_is_refused(tadsr, bundle, options, words):
    assert words in refusal(tadsr(bundle, "--to", "torch", *options))
    assert not Path("a.pth").exists()


def test_networks_of_a_training_run_are_written_too(tadsr, bundle, monkeypatch):
    """Its average, which is no part of a bundle, and its discriminator with the vectors of the spectral norm."""
    job = importlib.import_module("tadsr_jax.job.saved")  # where the room has a function of this name
    settings = bundles.describe(bundle)["settings"]
    family = FAMILIES["resshift"](**settings)
    random = lambda tree: jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)
    rng = np.random.default_rng(0)
    shapes = bundles.expected_shapes(family)
    features = [jax.ShapeDtypeStruct((1, 4, 4, c), np.float32) for c in (32, 64)]
    t = jax.ShapeDtypeStruct((1,), np.int32)
    judge = random(abstract_variables(TimeAwareDiscriminator(4, 32), features, t, update_stats=False))
    state = types.SimpleNamespace(
        params={"student": random(shapes["student"]), "discriminator": judge["params"]},
        stats={"discriminator": {"spectral": judge["spectral"]}},
        ema=random(shapes["student"]),
    )
    run = types.SimpleNamespace(
        family=family,
        state=state,
        recipe=types.SimpleNamespace(trained=None),
        fixed={"autoencoder": random(shapes["autoencoder"])},
        rest=None,
    )
    monkeypatch.setattr(job, "saved", lambda workdir, step: run if step == 7 else None)
    Path("runs/x").mkdir(parents=True)
    wanted = {
        "student": {"params": state.params["student"]},
        "ema": {"params": state.ema},
        "discriminator": judge,
        "autoencoder": {"params": run.fixed["autoencoder"]},
    }
    for part, variables in wanted.items():
        assert tadsr("runs/x", "--to", "torch", "--part", part, "--step", 7, "-o", f"{part}.pth")[0] == 0
        found = torch_file.read(f"{part}.pth")
        public = names.to_torch(variables)
        constants = {name for name in found if names.is_constant(name)}
        assert set(found) == {*public} | constants and bool(constants) == (part in ("student", "ema"))
        for name, array in public.items():
            np.testing.assert_array_equal(found[name], array)
    assert any(name.endswith("weight_u") for name in torch_file.read("discriminator.pth"))
    message = refusal(tadsr("runs/x", "--to", "torch", "--part", "teacher", "--step", 7, "-o", "t.pth"))
    assert "the networks of runs/x are student, discriminator, ema, autoencoder" in message


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders and files of the SeeSR family, and a bundle of them: its tagger cannot be tiny in a file of its own."""
    from tadsr_jax.convert import seesr
    from tests import tiny_public

    place = tmp_path_factory.mktemp("seesr")
    files = tiny_public.write(place, model="AddSR")
    seesr.seesr(**files, output=place / "bundle")
    return place


def test_a_bundle_becomes_a_folder_of_diffusers_and_that_a_bundle(tadsr, folders):
    code, out, err = tadsr(folders / "bundle", "--to", "diffusers", "-o", "folder")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "-> folder; next: tadsr convert seesr --model folder -o BUNDLE"
    unet = Path("folder/unet/diffusion_pytorch_model.safetensors")
    assert f"  unet/{unet.name}  SHA-256 {bundles.file_sha256(unet)}" in out.splitlines()
    code, out, err = tadsr("seesr", "--model", "folder", "--steps", 2, "-o", "again")
    assert (code, err) == (0, "")
    lines, info = out.splitlines(), bundles.describe("again")
    assert lines[0] == "addsr: x4, 2 step(s), stochastic" and info["steps"] == 2
    assert f"  unet/{unet.name}  SHA-256 {bundles.file_sha256(unet)}" in lines
    assert lines[-1] == "-> again; next: tadsr upscale photo.png --weights again"
    for name, network in bundles.describe(folders / "bundle")["networks"].items():
        assert info["networks"][name]["sha256"] == network["sha256"]
    code, out, _ = tadsr("again", "--to", "diffusers", "-o", "folder", "--json", "--overwrite")
    assert code == 0 and json.loads(out)["folder"] == "folder"


def test_a_ram_file_that_is_not_the_published_one_is_refused(tadsr, folders):
    files = ("--ram", folders / "ram.pth", "--dape", folders / "DAPE.pth")
    message = refusal(tadsr("seesr", "--model", folders / "AddSR", "--sd", folders / "sd2-base", *files, "-o", "b"))
    assert "ram.pth do not fit this network" in message and "expected (192, 3, 4, 4)" in message
    assert not Path("b").exists()


def test_a_network_of_the_second_family_is_written_for_pytorch(tadsr, folders):
    code, out, _ = tadsr(folders / "bundle", "--to", "torch", "--part", "autoencoder", "-o", "vae.safetensors")
    assert code == 0 and out.startswith(f"autoencoder of {folders / 'bundle'} (AutoencoderKL): ")
    assert tadsr(folders / "bundle", "--to", "torch", "--part", "student", "-o", "student.pth")[0] == 0
    student = torch_file.read("student.pth")
    assert {name.split(".")[0] for name in student} == {"unet", "controlnet"}


def test_a_student_that_learnt_in_part_is_written_whole(tadsr, monkeypatch):
    """Its state holds what learns, of itself and of its average; the rest is that of its teacher."""
    job = importlib.import_module("tadsr_jax.job.saved")
    rest = {"conv_in": {"bias": np.zeros(2, np.float32)}, "conv_out": {"bias": np.ones(2, np.float32)}}
    part = lambda value: {"conv_out": {"bias": np.full(2, value, np.float32)}}
    run = types.SimpleNamespace(
        family=types.SimpleNamespace(networks={"denoiser": None}),
        state=types.SimpleNamespace(params={"student": part(2)}, stats={}, ema=part(3)),
        recipe=types.SimpleNamespace(trained=lambda path: path[0] == "conv_out"),
        fixed={},
        rest=rest,
    )
    monkeypatch.setattr(job, "saved", lambda workdir, step: run)
    Path("run").mkdir()
    for name, value in (("student", 2), ("ema", 3)):
        assert tadsr("run", "--to", "torch", "--part", name, "-o", f"{name}.pth")[0] == 0
        found = torch_file.read(f"{name}.pth")
        assert {key: array.tolist() for key, array in found.items()} == {
            "conv_in.bias": [0, 0],
            "conv_out.bias": [value, value],
        }
