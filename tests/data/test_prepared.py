"""Folders of the public scripts as a source, and what the stream makes of them."""

import numpy as np
import pytest

from tadsr_jax import data, images, pictures
from tadsr_jax.data import sources
from tests import tiny_tokenizer
from tests.tiny_tokenizer import CAT, END, SOFA, START


def _folder(root, **words):
    """A folder with a random 24 x 20 picture for each name; lq is gt in reverse, tch its negative."""
    rng = np.random.default_rng(0)
    for folder in ("gt", "sr_bicubic", "tag", "tch"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in words.items():
        gt = rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)
        pictures.write(root / "gt" / f"{name}.png", gt)
        pictures.write(root / "sr_bicubic" / f"{name}.bmp", gt[..., ::-1])
        pictures.write(root / "tch" / f"{name}.png", 255 - gt)
        (root / "tag" / f"{name}.txt").write_text(text)
    return root


def _open(root):
    return sources.open_source("prepared", str(root))


@pytest.mark.quick
def test_partners_are_found_by_name_in_order_whatever_their_suffix(tmp_path):
    source = _open(_folder(tmp_path, b="sofa\n", a="cat, sofa"))
    assert [source.name(i) for i in range(len(source))] == ["a.png", "b.png"]
    picture = source.read(1)
    assert picture["words"] == "sofa" and set(picture) == {"gt", "lq", "words", "tch"}
    np.testing.assert_array_equal(picture["lq"], picture["gt"][..., ::-1])
    np.testing.assert_array_equal(picture["tch"], 255 - picture["gt"])


@pytest.mark.quick
def test_the_teachers_pictures_may_be_missing_all_together(tmp_path):
    (_folder(tmp_path, a="cat") / "tch").rename(tmp_path / "other")
    assert set(_open(tmp_path).read(0)) == {"gt", "lq", "words"}


@pytest.mark.quick
def test_missing_partners_are_told_in_one_error_with_their_number_and_first_names(tmp_path):
    _folder(tmp_path, **{f"p{i}": "cat" for i in range(6)})
    for i in range(5):
        (tmp_path / "tch" / f"p{i}.png").unlink()
    (tmp_path / "gt" / "p5.png").unlink()
    (tmp_path / "tag" / "alone.txt").write_text("cat")
    with pytest.raises(ValueError, match=r"of 7 names in its folders, gt lacks 2 \(alone, p5\)") as error:
        _open(tmp_path)
    assert "sr_bicubic lacks 1 (alone); tch lacks 6 (alone, p0, p1, ...)." in str(error.value)
    assert "tag lacks" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.quick
def test_a_name_with_two_suffixes_is_refused(tmp_path):
    _folder(tmp_path, a="cat")
    (tmp_path / "gt" / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"gt holds 1 \(a\.jpg\) under one name with another suffix"):
        _open(tmp_path)


@pytest.mark.quick
def test_a_folder_without_the_layout_is_told_what_it_lacks(tmp_path):
    (tmp_path / "gt").mkdir()
    with pytest.raises(ValueError, match=r"config\.data\.path is .* which has no folder sr_bicubic, tag; source"):
        _open(tmp_path)


@pytest.mark.quick
def test_texts_that_the_public_script_wrote_beside_the_folder_are_pointed_out(tmp_path):
    (_folder(tmp_path, a="cat") / "tag" / "a.txt").rename(tmp_path / "taga.txt")
    (tmp_path / "tag").rmdir()
    with pytest.raises(ValueError, match=r"no folder tag; .* move them to tag/NAME\.txt"):
        _open(tmp_path)


@pytest.mark.quick
def test_folders_that_hold_nothing_are_told(tmp_path):
    with pytest.raises(ValueError, match="its folders gt, sr_bicubic, tag, tch hold nothing"):
        _open(_folder(tmp_path))


@pytest.mark.quick
def test_an_lq_that_is_not_enlarged_is_no_pair(tmp_path):
    _folder(tmp_path, a="cat")
    pictures.write(tmp_path / "sr_bicubic" / "a.bmp", np.zeros((6, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="gt is 24x20, sr_bicubic 6x5; expected a ratio of 1: sr_bicubic holds lq"):
        _open(tmp_path).read(0)


@pytest.mark.quick
@pytest.mark.parametrize(
    "content, words", [(b"\xff\xfe", r"a\.txt: no text \(not in UTF-8\)"), (None, "cannot be read")]
)
def test_a_text_that_cannot_be_read_makes_its_picture_unusable(tmp_path, content, words):
    source = _open(_folder(tmp_path, a="cat"))
    (tmp_path / "tag" / "a.txt").unlink()
    if content is not None:
        (tmp_path / "tag" / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        source.read(0)


# --- the stream -----------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    pytest.importorskip("grain")
    pytest.importorskip("tokenizers")
    folder = _folder(tmp_path / "set", a="cat", b="sofa", c="cat")
    tokenizer = tiny_tokenizer.write(tmp_path / "sd2")
    settings = {"source": "prepared", "path": str(folder), "tokenizer": str(tokenizer), "seed": 3}
    return settings | {"batch_size": 2, "gt_size": 16, "scale": 4}


def _batches(count, **config):
    with data.training_stream(**config) as stream:
        return [next(stream) for _ in range(count)]


def test_all_pictures_of_an_example_are_cut_and_flipped_alike(config):
    for batch in _batches(6, **config, rot=True):
        assert {key: batch[key].shape for key in ("gt", "lq", "tch")} == dict.fromkeys(
            ("gt", "lq", "tch"), (2, 16, 16, 3)
        )
        np.testing.assert_array_equal(batch["lq"], batch["gt"][..., ::-1])
        np.testing.assert_allclose(batch["tch"], -batch["gt"], atol=1e-6)


def test_words_travel_as_ids_and_are_emptied_as_often_as_asked(config):
    rows = lambda ratio: np.concatenate([b["tokens"] for b in _batches(20, **config, null_text_ratio=ratio)])
    said = {CAT: [START, CAT, END, 0, 0, 0, 0, 0], SOFA: [START, SOFA, END, 0, 0, 0, 0, 0]}
    assert rows(0).dtype == np.int32 and sorted(map(list, np.unique(rows(0), axis=0))) == sorted(said.values())
    assert (rows(1) == [START, END, 0, 0, 0, 0, 0, 0]).all()
    half = rows(0.5)[:, 1] == END
    assert 10 < half.sum() < 30  # three deviations of 40 fair coins are 9.5


def test_batches_with_words_are_the_same_with_workers_and_from_any_start(config):
    for one, other in zip(_batches(4, **config)[2:], _batches(2, **config, num_workers=1, start=2), strict=True):
        assert set(one) == {"lq", "gt", "tch", "tokens"}
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_other_sources_say_nothing_and_give_the_same_pictures_as_without_a_tokenizer(config):
    demo = {"source": "demo", "batch_size": 2, "gt_size": 32, "scale": 4, "seed": 7}
    (with_words,), (without,) = (_batches(1, **demo, **more) for more in ({"tokenizer": config["tokenizer"]}, {}))
    assert (with_words.pop("tokens") == [START, END, 0, 0, 0, 0, 0, 0]).all()
    assert set(with_words) == set(without) == {"lq", "gt"}
    assert all(np.array_equal(with_words[key], without[key]) for key in without)


def test_validation_pairs_have_the_small_lq_that_a_model_is_given(config):
    for size, shape in ((16, (16, 16, 3)), (None, (24, 16, 3))):
        pairs = data.validation_pairs(
            source="prepared", path=config["path"], count=2, gt_size=size, scale=4, multiple=2
        )
        assert [pair["name"] for pair in pairs] == ["a", "b"] and pairs[0]["gt"].shape == shape
        gt, lq = images.from_signed(pairs[1]["gt"]), images.from_signed(pairs[1]["lq"])
        np.testing.assert_allclose(lq, np.clip(images.matlab_bicubic(gt[..., ::-1], 1 / 4), 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"tokenizer": None}, "config.data.tokenizer is None; source='prepared' has words, which need the folder"),
        ({"tokenizer": 3}, "config.data.tokenizer is 3; expected a path as a string"),
        ({"tokenizer": "/no/such"}, "config.data.tokenizer is '/no/such'. .*no tokenizer; expected vocab.json"),
        ({"null_text_ratio": 1.5}, "config.data.null_text_ratio is 1.5; expected a probability from 0 to 1"),
        ({"null_text_ratio": True}, "config.data.null_text_ratio is True; expected a probability"),
        ({"path": "/"}, "config.data.path is '/', which has no folder gt, sr_bicubic, tag"),
        ({"path": None}, "config.data.path is None; source='prepared' needs"),
    ],
)
def test_wrong_settings_of_prepared_folders_are_refused_in_one_line(config, wrong, words):
    data.check(**config)
    with pytest.raises(ValueError, match=words) as error:
        data.check(**config | wrong)
    assert "\n" not in str(error.value)
