"""Reading a config: what is wrong with it is said before anything is compiled or written."""

import json
import os
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tadsr_jax import bundles, job
from tadsr_jax.config import plain
from tadsr_jax.evaluate import report as reports
from tadsr_jax.job.run import _finish
from tadsr_jax.job.weights import read_texts
from tests import tiny_tokenizer
from tests.runs import random_state, vq_config

CONFIGS = Path(__file__).parent.parent / "configs"
GET = {name: runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"] for name in ("x4", "teacher_x4", "sinsr_x4")}


def config(name: str = "x4", variant: str = "tiny", **changes) -> dict:
    """A config, with values set by dotted path (with __ for a dot)."""
    made = plain(GET[name](variant))
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = made
        for section in sections:
            place = place[section]
        place[key] = value
    return made


def refusal(read) -> str:
    with pytest.raises(ValueError) as error:
        job.read(read)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def teacher():
    return job.read(config("teacher_x4"))


TEXTS = {"tags.txt": "cat\n", "vocab.json": "{}", "merges.txt": "m", "tokenizer.json": "{}"}
SOURCES = {"student": {"file": "teacher.pth", "licence": "for non-commercial use"}}


def untrained(of: dict, folder: Path, **options) -> Path:
    """A bundle of a config's model, untrained."""
    family, settings = job.parts(of)[0], job.family_settings(of)
    params = jax.jit(family.init)(jax.random.key(0))
    params = {"student": params.pop("denoiser"), **params}
    return bundles.save(folder, family="resshift", settings=settings, params=params, **options)


@pytest.fixture(scope="module")
def bundle(teacher, tmp_path_factory):
    """A bundle of the tiny teacher, untrained, which has texts and says where it comes from."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    return untrained(teacher.config, folder, info={"sources": SOURCES}, texts=TEXTS)


@pytest.mark.parametrize("name", GET)
def test_tiny_configs_are_read_and_have_what_they_train(name):
    read = job.read(config(name))
    assert read.recipe.frozen and "student" in read.optimizers
    assert (read.teacher is None) == (name == "teacher_x4")
    assert [pair["gt"].shape for pair in read.pairs] == [(64, 64, 3)] * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"foo": 1}, "config.foo is unknown; expected family, recipe"),
        ({"recipe": "gan"}, "config.recipe is 'gan'; expected one of teacher, sinsr, tadsr"),
        ({"family": "sd"}, "config.family is 'sd'; expected one of resshift"),
        ({"scale": 0}, "config.scale is 0; expected a whole number, 1 or more"),
        ({"seed": -1}, "config.seed is -1"),
        ({"seed": 2**40}, "config.seed is 1099511627776; expected a whole number below 2^32"),
        ({"losses": 3}, "config.losses is 3; expected a section"),
        ({"networks__foo": 1}, "config.networks.foo is unknown"),
        ({"networks__denoiser__foo": 1}, "config.networks.denoiser.foo is unknown"),
        ({"diffusion__foo": 1}, "foo"),
        ({"losses__foo": 1}, "config.losses.foo is unknown"),
        ({"losses__discriminator__foo": 1}, "config.losses.discriminator.foo is unknown"),
        ({"data__foo": 1}, "config.data.foo"),
        ({"validation__foo": 1}, "config.validation.foo is unknown"),
        ({"optimizer__foo": 1}, "config.optimizer.foo is unknown"),
        ({"optimizer__student__foo": 1}, "config.optimizer.student.foo is unknown"),
        ({"mesh__foo": 1}, "config.mesh.foo is unknown"),
        ({"train__foo": 1}, "config.train.foo is unknown"),
        ({"train__workdir": "x"}, "config.train.workdir is unknown"),
        ({"init__foo": "x"}, "config.init.foo is unknown; expected teacher, student, autoencoder"),
        ({"init__student": "x"}, "config.init.student is 'x', which recipe 'tadsr' with these losses does not read"),
        ({"teacher__train__foo": 1}, "config.teacher.train.foo is unknown"),
        ({"teacher__data__source": "web"}, "config.teacher.data.source is 'web'"),
        ({"teacher": 3}, "config.teacher is 3; expected a whole config"),
        ({"train__steps": 0}, "config.train.steps is 0; expected a whole number, 1 or more"),
        ({"train__steps": None}, "config.train.steps is None"),
        ({"train__keep": 0}, "config.train.keep is 0"),
        ({"train__max_skipped": 0}, "config.train.max_skipped is 0"),
        ({"train__ema_decay": 1.0}, "config.train.ema_decay is 1.0; expected a number from 0 to below 1"),
        ({"validation__count": 0}, "config.validation.count is 0"),
        ({"validation__gt_size": 30}, "config.validation.gt_size is 30; the networks need a multiple of 8: use 24"),
        ({"data__gt_size": 30}, "config.data.gt_size is 30; the networks need a multiple of 8: use 24"),
        ({"train__accumulate": 3}, "config.data.batch_size is 8; it must be a multiple of 3"),
        ({"mesh__data": 3}, "config.mesh is data=3, fsdp=1, for"),
        ({"optimizer__student__lr": -1.0}, "config.optimizer.student.lr is -1.0; expected a number above 0"),
        ({"optimizer__student__lr": float("nan")}, "config.optimizer.student.lr is nan"),
        ({"optimizer__discriminator__betas": (0.9, 1.0)}, "config.optimizer.discriminator.betas is (0.9, 1.0)"),
        ({"optimizer__student__schedule": "step"}, "config.optimizer.student.schedule is 'step'; expected one of"),
        ({"optimizer__discriminator": None}, "config.optimizer.discriminator is None; recipe 'tadsr' trains it"),
        ({"data__source": "folder"}, "config.data.path, your training pictures (config.data.source is 'folder')"),
        ({"data__source": "folder", "data__path": "/none"}, "config.data.path is '/none', which does not exist"),
        ({"validation__source": "folder", "validation__path": "/none"}, "config.validation.path is '/none'"),
        ({"init__teacher": "/none"}, "config.init.teacher is '/none', which does not exist; expected a weights file"),
        ({"init__autoencoder": 3}, "config.init.autoencoder is 3; expected the path"),
        ({"teacher": None}, "needed, but not set: config.init.teacher"),
    ],
)
def test_a_wrong_config_is_refused_with_the_value_and_what_is_accepted(changes, words):
    assert words in refusal(config(**changes))


def test_lpips_files_are_asked_for_where_the_loss_needs_them():
    text = refusal(config("teacher_x4", losses__perceptual=1.0))
    assert "config.init.lpips_backbone, VGG-16" in text and "config.init.lpips_heads, the LPIPS heads" in text


def test_a_bundle_replaces_the_training_of_a_teacher(bundle):
    read = job.read(config(init__teacher=str(bundle)))
    assert read.teacher is None
    jax.tree.map(np.testing.assert_array_equal, read.weights["teacher"], bundles.load(bundle).params["student"])


def test_a_bundle_of_another_model_is_refused(bundle):
    text = refusal(config(init__teacher=str(bundle), networks__denoiser__widths=(32, 64)))
    assert f"config.init.teacher={bundle} has another denoiser than this config" in text
    text = refusal(config(init__teacher=str(bundle), diffusion__kappa=0.3))
    assert f"config.init.teacher={bundle} has another schedule than this config" in text


def test_a_weights_file_of_another_architecture_is_refused(tmp_path):
    public = {"input_blocks.0.0.weight": np.zeros((160, 6, 3, 3), np.float32)}
    save_file(public, tmp_path / "swin.safetensors")
    text = refusal(config(init__teacher=str(tmp_path / "swin.safetensors")))
    assert f"config.init.teacher={tmp_path / 'swin.safetensors'}" in text and "input_blocks.0.0.weight" in text


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    for name, data in (("a.safetensors", b"no weights"), ("a.pth", b"\x80\x04no pickle of ours"), ("a.ckpt", b"")):
        (tmp_path / name).write_bytes(data)
        assert name in refusal(config(init__teacher=str(tmp_path / name)))


def test_a_bundle_is_opened_once_and_gives_every_network_once(tmp_path, monkeypatch):
    of, opened, given, open_bundle = vq_config(), [], [], bundles.open_bundle
    of["init"] = {"student": str(untrained(of, tmp_path / "vq", info={}))}

    def counted(path):
        opened.append(path)
        model, read = open_bundle(path)
        return model, lambda name: given.append(name) or jax.tree.map(np.float16, read(name))

    monkeypatch.setattr(bundles, "open_bundle", counted)
    weights = job.read(of).weights
    assert opened == [of["init"]["student"]] and given == ["student", "autoencoder"]
    assert {name: {leaf.dtype.name for leaf in jax.tree.leaves(tree)} for name, tree in weights.items()} == {
        "student": {"float32"},
        "autoencoder": {"float32"},
    }


def test_a_run_keeps_the_texts_of_its_first_bundle_with_the_tokenizer_that_it_learns_with(bundle, tmp_path):
    init, files = {"teacher": str(bundle)}, tiny_tokenizer.write(tmp_path) / "tokenizer"
    data = {"tokenizer": str(tmp_path)}
    written = {path.name: path.read_text() for path in files.iterdir()}
    assert read_texts({"init": init, "data": {}}) == TEXTS
    assert read_texts({"init": {}, "data": data}) == written
    assert read_texts({"init": init, "data": data}) == {"tags.txt": "cat\n"} | written  # no tokenizer.json beside it
    assert read_texts({"init": {}, "data": {}}, {"tags.txt": "dog\n"}) == {"tags.txt": "dog\n"}


def test_sources_of_a_named_bundle_are_inherited(bundle):
    read = job.read(config(init__teacher=str(bundle)))
    assert read.sources == {"teacher": SOURCES} and job.read(config()).sources == {}


def test_few_steps_are_compared_with_as_many_of_the_teacher(bundle, tmp_path, monkeypatch):
    sheets, comparison = [], reports.comparison
    monkeypatch.setattr(reports, "comparison", lambda columns: sheets.append(list(columns)) or comparison(columns))
    for steps, title in ((1, "student, 1 step"), (3, "student, 3 steps")):
        read, sampled = job.read(config(init__teacher=str(bundle))), []
        read, gt = read._replace(recipe=read.recipe._replace(sample_steps=steps)), reports.truth(read.pairs)
        sampler = lambda denoiser, fixed, *, steps, gt=gt, sampled=sampled: sampled.append(steps) or gt
        frozen = {"teacher": read.weights["teacher"], "autoencoder": {}}
        rest = random_state(read.config), read.weights, frozen, sampler
        report = _finish(read, tmp_path / str(steps), "x4", *rest, seconds=0.0)
        assert sampled == [steps, read.family.longest, steps]
        assert sheets[-1] == ["LQ", "bicubic", f"teacher, {read.family.longest} steps", title, "HR"]
        made = bundles.describe(tmp_path / str(steps) / "bundle")
        assert made["sources"] == {"teacher": str(bundle), "pictures": "demo", "inherited": {"teacher": SOURCES}}
        assert set(report["psnr_to_teacher"]) == {"student", "undistilled"}


def begun(workdir: Path, with_config) -> None:
    """A workdir as a run leaves it after its first save."""
    (workdir / "checkpoints" / "10").mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(with_config))


def test_a_workdir_goes_on_with_more_steps_and_another_rate_but_not_with_another_model(teacher, tmp_path):
    begun(tmp_path, teacher.config)
    before = sorted(tmp_path.rglob("*"))
    job.check_workdir(job.read(config("teacher_x4", train__steps=99, optimizer__student__lr=1e-5)), tmp_path)
    other = job.read(config("teacher_x4", networks__denoiser__widths=(32, 64), diffusion__kappa=0.3))
    with pytest.raises(ValueError) as error:
        job.check_workdir(other, tmp_path)
    text = str(error.value)
    assert f"--workdir is {tmp_path}, begun with another config" in text and "\n" not in text
    assert "config.networks.denoiser.widths is [32, 64] now, [32, 32] there" in text
    assert "config.diffusion.kappa is 0.3 now," in text
    assert sorted(tmp_path.rglob("*")) == before


def test_how_a_network_computes_may_change_in_a_workdir(teacher, tmp_path):
    begun(tmp_path, teacher.config)
    job.check_workdir(job.read(config("teacher_x4", networks__denoiser__dtype="bfloat16")), tmp_path)


def test_the_workdir_of_the_teacher_is_checked_too(teacher, tmp_path):
    begun(tmp_path / "teacher", teacher.config)
    with pytest.raises(ValueError, match=r"teacher, begun with another config: config.seed is 1 now"):
        job.check_workdir(job.read(config(teacher__seed=1)), tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="rights do not bind this user")
def test_a_workdir_that_cannot_be_written_is_refused(teacher, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ValueError, match=r"cannot be written"):
            job.check_workdir(teacher, tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)
