"""Help and version answer at once: nothing that computes is loaded for them."""

import subprocess
import sys

import pytest

from tadsr_jax import __version__, cli

pytestmark = pytest.mark.quick


def tadsr(capsys, *argv: str, **room: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `tadsr ARGV`."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(argv), **room)
    return ended.value.code, *capsys.readouterr()


@pytest.mark.parametrize("argv", [["--help"], ["upscale", "--help"], ["--version"]])
def test_help_loads_nothing_that_computes(argv):
    code = (
        f"import sys; from tadsr_jax import cli\ntry: cli.main({argv})\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout
    loaded = set(ended.stderr.split())
    assert "click" in loaded and not loaded & {"jax", "flax", "cv2", "PIL", "orbax", "tadsr_jax.upscale.upscaler"}


def test_help_lists_every_command(capsys):
    code, out, _ = tadsr(capsys, "--help")
    assert code == 0
    for name, about in cli.COMMANDS.items():
        assert f"  {name}" in out and about in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_shows_an_example_before_the_options(capsys, name):
    code, out, _ = tadsr(capsys, name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: tadsr {name} ")
    assert 0 < out.index(f"  tadsr {name} ") < out.index("Options:")


def test_every_option_of_upscale_says_what_it_is(capsys):
    _, out, _ = tadsr(capsys, "upscale", "--help")
    options = " ".join(out[out.index("Options:") :].split())
    for option in ("-i, --input", "-o, --output", "-n, --weights", "-s, --scale", "-t, --tile", "-f, --format"):
        assert option in options
    for words in (
        "[default: results]",
        "[default: auto]",
        "0<=x<=18446744073709551615",
        "1<=x<=100",
        "1<=x<=1024",
        "0<x<=64",
    ):
        assert words in options


def test_version(capsys):
    assert tadsr(capsys, "--version") == (0, f"tadsr {__version__}\n", "")


def test_the_room_itself_is_the_same_command(capsys):
    code, out, _ = tadsr(capsys, "-h", room="upscale")
    assert code == 0 and out.startswith("Usage: python -m tadsr_jax.upscale ")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["upscal", "x.png"],
            "error: no command 'upscal'; expected one of upscale, convert, download, export. Did you",
        ),
        (["--nope"], "error: No such option '--nope'"),
        (["upscale", "--steps", "many"], "error: Invalid value for '--steps': 'many' is not a valid integer range."),
        (["upscale", "--scales", "2"], "error: No such option '--scales'"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(capsys, argv, words):
    code, out, err = tadsr(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(words) and err.count("\n") == 1


def test_the_bare_command_shows_help_and_is_wrong_use(capsys):
    code, out, err = tadsr(capsys)
    assert (code, out) == (2, "") and "Commands:" in err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "error: two lines\n"),
        (PermissionError(13, "Permission denied", "out"), "error: out: Permission denied\n"),
        (OSError("no number"), "error: no number\n"),
    ],
)
def test_what_a_person_can_cause_becomes_a_line_and_exit_code_2(capsys, error, line):
    with pytest.raises(SystemExit, match="2"), cli.refusing():
        raise error
    assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback():
    with pytest.raises(TypeError), cli.refusing():
        raise TypeError("a bug")
