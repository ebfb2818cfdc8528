"""Which pictures a command means, and what their results are called."""

import os
from pathlib import Path

import pytest

from tadsr_jax.upscale import files

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    """Files of these names; a name is all that `find` looks at."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*inputs: str, output: str = "out", **settings) -> dict[str, str]:
    """{input: output}, in order."""
    return {str(job.input): str(job.output) for job in files.find(list(inputs), output, **settings)}


def refusal(*inputs: str, output: str = "out", **settings) -> str:
    with pytest.raises(ValueError) as raised:
        files.find(list(inputs), output, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_file_goes_into_the_output_folder_as_png():
    touch("photo.jpg")
    assert found("photo.jpg") == {"photo.jpg": "out/photo.png"}


def test_one_file_may_be_given_a_name():
    touch("photo.jpg")
    assert found("photo.jpg", output="large/big.webp") == {"photo.jpg": "large/big.webp"}
    assert found("photo.jpg", output="big.JPEG", format="jpg") == {"photo.jpg": "big.JPEG"}
    assert found("photo.jpg", output="big.jpg", format="jpeg") == {"photo.jpg": "big.jpg"}
    assert found("photo.jpg", output="big.tiff", format="tiff") == {"photo.jpg": "big.tiff"}


def test_jpeg_and_tiff_are_jpg_and_tif():
    touch("photo.png")
    assert found("photo.png", format="jpeg") == {"photo.png": "out/photo.jpg"}
    assert found("photo.png", format="tiff") == {"photo.png": "out/photo.tif"}


def test_a_folder_with_a_pictures_name_is_a_folder():
    touch("photo.jpg", "big.png/x")
    assert found("photo.jpg", output="big.png") == {"photo.jpg": "big.png/photo.png"}


def test_folders_are_searched_and_keep_their_structure():
    touch("in/a.jpg", "in/deep/er/b.PNG", "in/deep/c.tiff")
    assert found("in") == {
        "in/a.jpg": "out/a.png",
        "in/deep/c.tiff": "out/deep/c.png",
        "in/deep/er/b.PNG": "out/deep/er/b.png",
    }


def test_hidden_files_and_files_that_are_no_pictures_by_name_are_left_alone():
    touch("in/a.jpg", "in/Thumbs.db", "in/notes.txt", "in/.b.jpg", "in/.cache/c.jpg", "in/noname")
    assert list(found("in")) == ["in/a.jpg"]


def test_numbers_in_names_count_as_numbers_and_case_does_not():
    touch("in/10.png", "in/9.png", "in/b2.png", "in/B10.png", "in/a.png")
    assert list(found("in")) == [f"in/{name}.png" for name in ("9", "10", "a", "b2", "B10")]


def test_inputs_keep_their_order_and_each_picture_counts_once():
    touch("in/a.png", "in/b.png", "c.png")
    assert list(found("c.png", "in/b.png", "in", "./c.png")) == ["c.png", "in/b.png", "in/a.png"]


def test_globs_that_no_shell_expanded_keep_the_structure_below_their_folder():
    touch("in/a.jpg", "in/deep/b.jpg", "in/deep/c.txt", "in/.hidden.jpg")
    assert found("in/**/*.jpg") == {"in/a.jpg": "out/a.png", "in/deep/b.jpg": "out/deep/b.png"}
    assert found("in/*") == {"in/a.jpg": "out/a.png", "in/deep/b.jpg": "out/deep/b.png"}
    assert found("*/?.jpg") == {"in/a.jpg": "out/in/a.png"}


def test_a_name_that_looks_like_a_glob_is_a_name_first():
    touch("photo[1].jpg", "photo1.jpg")
    assert list(found("photo[1].jpg")) == ["photo[1].jpg"]


def test_results_of_an_earlier_run_inside_the_input_are_no_inputs():
    touch("in/a.jpg", "in/out/a.png", "in/out/deep/b.png")
    assert list(found("in", output="in/out")) == ["in/a.jpg"]
    assert list(found("in/**", output="in/out")) == ["in/a.jpg"]


def test_loops_of_links_end_and_real_folders_come_before_links():
    touch("in/real/a.png")
    Path("in/again").symlink_to("real")
    Path("in/real/loop").symlink_to("..")
    Path("in/itself").symlink_to("itself")
    Path("in/broken.png").symlink_to("nowhere.png")
    assert list(found("in")) == ["in/real/a.png"]


@pytest.mark.parametrize(
    ("names", "inputs", "outputs"),
    [
        (["a.jpg", "a.png"], ["a.jpg", "a.png"], ["a.jpg.png", "a.png.png"]),
        (["in/a.jpg", "in/A.png", "in/b.png"], ["in"], ["a.jpg.png", "A.png.png", "b.png"]),
        # The whole name of one is the short name of another.
        (["in/a.jpg", "in/a.png", "in/a.jpg.bmp"], ["in"], ["a.jpg.png", "a.jpg.bmp.png", "a.png.png"]),
        (["one/a.png", "two/a.png"], ["one", "two"], ["one/a.png", "two/a.png"]),
        (["one/a.png", "two/a.png"], ["one/a.png", "two/a.png"], ["one/a.png", "two/a.png"]),
        (["1/in/a.png", "2/in/a.png"], ["1/in", "2/in"], ["in/a.png-1.png", "in/a.png-2.png"]),
        # As some file systems see them, these are one name: upper case, and an accent as a character of its own.
        (["in/a.png", "in/a.PNG"], ["in"], ["in/a.PNG-1.png", "in/a.png-2.png"]),
        (["1/\u00e9.png", "2/e\u0301.png"], ["1", "2"], ["1/\u00e9.png", "2/e\u0301.png"]),
    ],
)
def test_no_two_inputs_have_one_output(names, inputs, outputs):
    touch(*names)
    assert list(found(*inputs).values()) == [f"out/{name}" for name in outputs]


def test_every_combination_of_clashing_names_gets_names_of_its_own():
    stems, suffixes = ("a", "A", "a.jpg", "a.jpg.png"), (".png", ".jpg", ".PNG", ".webp")
    touch(*[f"{folder}/in/{stem}{suffix}" for folder in "12" for stem in stems for suffix in suffixes])
    outputs = list(found("1/in", "2", "1").values())
    assert len(outputs) == len({name.casefold() for name in outputs}) == 32
    assert outputs == list(found("1/in", "2", "1").values())


def test_the_format_keep_leaves_every_suffix_as_it_is():
    touch("in/a.jpg", "in/a.png", "in/b.JPEG")
    assert list(found("in", format="keep").values()) == ["out/a.jpg", "out/a.png", "out/b.JPEG"]


def test_things_that_are_named_but_left_alone_are_told():
    touch("a.png", "notes.txt")
    Path("empty").mkdir()
    lines = []
    assert list(found("a.png", "notes.txt", "empty", note=lines.append)) == ["a.png"]
    assert [line.split(":")[:2] for line in lines] == [["left alone", " notes.txt"], ["left alone", " empty"]]


@pytest.mark.parametrize(
    ("inputs", "settings", "words"),
    [
        ([], {}, "no pictures named"),
        ([""], {}, "no such file"),
        (["nowhere.png"], {}, "'nowhere.png': no such file; expected a picture, a folder of pictures, or a glob"),
        (["a.png", "nowhere"], {}, "'nowhere': no such file"),
        (["no*.png"], {}, "'no*.png' matches no picture"),
        (["notes.txt"], {}, "notes.txt: no picture by its name; expected one of .png"),
        (["empty"], {}, "empty: no pictures in this folder (.png"),
        (["pipe"], {}, "neither file nor folder"),
        (["a.png"], {"output": "notes.txt"}, "notes.txt is a file"),
        (["in"], {"output": "notes.txt"}, "notes.txt is a file; for 2 pictures"),
        (["in"], {"output": "x.png"}, "x.png is a picture's name, but the input is a folder or several pictures"),
        (["a.png", "b.png"], {"output": "x.png"}, "x.png is a picture's name"),
        (["a.png"], {"output": "x.gif"}, "x.gif: .gif cannot be written; expected one of .png"),
        (["a.png"], {"output": "x.png", "format": "jpg"}, "x.png does not end as format 'jpg' does"),
        (["a.png"], {"output": "a.png"}, "a.png would be written to a.png, which is an input"),
        (["a.png"], {"output": "."}, "a.png would be written to a.png, which is an input"),
        (["a.png"], {"output": "link.png"}, "a.png would be written to link.png, which is an input"),
        (["c.jpg", "in/1.png"], {"output": "in"}, "in/1.png would be written to in/1.png"),
        (["in"], {"output": "in"}, "in is both input and output; give another folder with -o, such as in/enlarged"),
        (["in/*.png"], {"output": "in"}, "in is both input and output"),
        (["a.png"], {"mask": "nowhere"}, "'nowhere': no such mask"),
        (["a.png"], {"mask": "notes.txt"}, "notes.txt: no picture by its name"),
        (["a.png"], {"mask": "in"}, "in holds no mask for a.png; expected in/a.png, or that name in another format"),
        (["a.png", "b.png"], {"mask": "in"}, "in holds no mask for a.png, nor for another picture; expected in/a.png"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(inputs, settings, words):
    touch("a.png", "b.png", "c.jpg", "in/1.png", "in/2.png", "notes.txt")
    Path("empty").mkdir()
    Path("link.png").symlink_to("a.png")
    os.mkfifo("pipe")
    assert words in refusal(*inputs, **settings)
    assert not Path("out").exists()


def masks_of(*inputs: str, mask: str) -> dict[str, str]:
    return {str(job.input): str(job.mask) for job in files.find(list(inputs), "out", mask=mask)}


def test_every_picture_has_the_mask_of_its_place_and_name_and_masks_are_no_inputs():
    touch("in/a.png", "in/deep/b.jpg", "in/masks/a.bmp", "in/masks/deep/b.jpg")
    expected = {"in/a.png": "in/masks/a.bmp", "in/deep/b.jpg": "in/masks/deep/b.jpg"}
    assert masks_of("in", mask="in/masks") == masks_of("in/**", mask="in/masks") == expected


def test_a_mask_that_is_missing_is_named_where_it_was_expected():
    touch("in/a.png", "in/deep/b.jpg", "masks/a.bmp")
    assert masks_of("in", mask="masks") == {"in/a.png": "masks/a.bmp", "in/deep/b.jpg": "masks/deep/b.jpg"}


def test_one_mask_serves_all_pictures():
    touch("in/a.png", "in/b.png", "in/mask.png")
    assert masks_of("in", mask="in/mask.png") == {"in/a.png": "in/mask.png", "in/b.png": "in/mask.png"}


def test_an_output_that_can_be_written_is_not_made_by_the_check(tmp_path):
    files.check_writable(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["file", "file/deeper"])
def test_an_output_that_cannot_be_a_folder_is_refused(output):
    touch("file")
    with pytest.raises(ValueError, match=f"{output} cannot be made: .*file is no folder"):
        files.check_writable(output)


def test_an_output_without_permission_to_write_is_refused(monkeypatch):
    def denied(**_):  # whoever runs the tests as root may write everywhere
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", denied)
    with pytest.raises(ValueError, match=r"out cannot be written to: .*: Permission denied"):
        files.check_writable("out")
