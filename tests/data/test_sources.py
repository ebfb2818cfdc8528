"""Where pictures come from, and what is said when they do not."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from tadsr_jax import pictures
from tadsr_jax.data import sources

pytestmark = pytest.mark.quick


def _picture(value, side=8):
    return np.full((side, side, 3), value, np.uint8)


def _png(picture):
    """The bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def test_a_folder_is_searched_recursively_in_any_letter_case_and_in_order(tmp_path):
    for name in ("b/2.PNG", "a.Jpg", "b/1.webp", "b/c/3.TIF", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / name).write_text("not a picture")
        else:
            pictures.write(tmp_path / name, _picture(9))
    source = sources.open_source("folder", str(tmp_path))
    assert [source.name(i) for i in range(len(source))] == ["a.Jpg", "b/1.webp", "b/2.PNG", "b/c/3.TIF"]
    assert all(np.abs(source.read(i)["gt"].astype(int) - 9).max() <= 2 for i in range(4))


def test_links_in_a_circle_end(tmp_path):
    pictures.write(tmp_path / "a.png", _picture(1))
    os.symlink(tmp_path, tmp_path / "again")
    assert len(sources.open_source("folder", str(tmp_path))) == 1


def test_listing_opens_no_file(tmp_path, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"")
    monkeypatch.setattr(sources.images, "read", lambda path: pytest.fail("opened"))
    assert len(sources.open_source("folder", str(tmp_path))) == 1


def test_a_list_names_files_relative_to_itself_or_absolutely(tmp_path):
    (tmp_path / "sub").mkdir()
    pictures.write(tmp_path / "sub" / "a.png", _picture(1))
    pictures.write(tmp_path / "b.png", _picture(2))
    (tmp_path / "list.txt").write_text(f"# training\nsub/a.png\n\n{tmp_path / 'b.png'}\ngone.png\n")
    source = sources.open_source("list", str(tmp_path / "list.txt"))
    assert [source.read(i)["gt"][0, 0, 0] for i in range(2)] == [1, 2]
    with pytest.raises(ValueError, match=r"gone\.png: cannot be read \(No such file"):
        source.read(2)


def test_pairs_match_by_name_without_suffix_and_must_have_the_ratio(tmp_path):
    for folder, name, side in (("gt", "a.png", 8), ("gt", "b.png", 8), ("lq", "a.bmp", 2), ("lq", "b.png", 3)):
        (tmp_path / folder).mkdir(exist_ok=True)
        pictures.write(tmp_path / folder / name, _picture(7, side))
    pictures.write(tmp_path / "gt" / "alone.png", _picture(1))
    source = sources.open_source("pairs", str(tmp_path / "gt"), lq_path=str(tmp_path / "lq"), scale=4)
    assert len(source) == 2 and source.read(0)["lq"].shape == (2, 2, 3)
    with pytest.raises(ValueError, match="gt is 8x8, lq 3x3; expected a ratio of 4"):
        source.read(1)


def test_records_are_the_bytes_of_encoded_pictures(tmp_path):
    writer_module = pytest.importorskip("array_record.python.array_record_module")
    writer = writer_module.ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    for value in (3, 4):
        writer.write(_png(_picture(value)))
    writer.write(b"rubbish")
    writer.close()
    for path in (tmp_path, tmp_path / "x.array_record"):
        source = sources.open_source("records", str(path))
        assert [source.read(i)["gt"][0, 0, 0] for i in range(2)] == [3, 4]
        with pytest.raises(ValueError, match="record 2: no picture"):
            source.read(2)


def test_a_prepared_tfds_dataset_is_read_without_tensorflow(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Pictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": ((i, {"image": io.BytesIO(_png(_picture(i)))}) for i in range(3))}

        def _generate_examples(self):
            raise NotImplementedError

    builder = Pictures(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    source = sources.open_source("tfds", str(builder.data_dir))
    assert sorted(source.read(i)["gt"][0, 0, 0] for i in range(len(source))) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"split 'test'.*Unknown split"):
        sources.open_source("tfds", str(builder.data_dir), split="test")


def test_a_file_that_is_no_record_file_is_refused(tmp_path):
    pytest.importorskip("array_record")
    (tmp_path / "x.array_record").write_bytes(b"short")
    with pytest.raises(ValueError, match="no ArrayRecord file"):
        sources.open_source("records", str(tmp_path))


def test_a_named_pipe_does_not_stop_a_run(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="no ordinary file"):
        sources.open_source("folder", str(tmp_path)).read(0)


@pytest.mark.parametrize(
    "source, path, words",
    [
        ("foldr", "x", "config.data.source is 'foldr'; expected one of folder, list, pairs, records, tfds, demo"),
        ("folder", None, "config.data.path is None; source='folder' needs"),
        ("folder", "/no/such/place", "which does not exist; source='folder' reads it"),
        ("folder", __file__, "which is no folder; source='folder' needs one"),
        ("list", "/", "which is no text file; source='list' reads one"),
        ("pairs", "/", "config.data.lq_path is None; source='pairs' needs"),
        ("records", "/no/such/records", "which does not exist"),
    ],
)
def test_a_wrong_place_is_told_with_its_key(source, path, words):
    with pytest.raises(ValueError, match=words):
        sources.open_source(source, path)


def test_a_folder_without_pictures_is_told_with_the_number_of_other_files(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"no file in or below it has the suffix of a picture .*1 other files"):
        sources.open_source("folder", str(tmp_path))
