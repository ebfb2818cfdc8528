import dataclasses
import json
import sys

import pytest

from tadsr_jax import cli, releases
from tests.served import served

pytestmark = pytest.mark.quick


@pytest.fixture
def server(monkeypatch):
    small = {name: dataclasses.replace(release, parameters=6) for name, release in releases.RELEASES.items()}
    monkeypatch.setattr(releases, "RELEASES", small)
    monkeypatch.setattr(releases, "UNET_BUFFER_BYTES", 0)
    with served(SinSR_v1__pth=b"the weights of the U-Net", autoencoder_vq_f4__pth=b"those of its autoencoder") as told:
        yield told


def tadsr(capsys, *argv: str, **room: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `tadsr download ARGV`."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*([] if room else ["download"]), *argv], **room)
    return ended.value.code, *capsys.readouterr()


def test_the_licence_comes_first_and_the_next_command_last(server, tmp_path, capsys):
    code, out, err = tadsr(capsys, "sinsr-v1", "-o", str(tmp_path), "--mirror", server.address)
    assert code == 0
    assert out == (
        f"tadsr convert resshift --unet {tmp_path}/SinSR_v1.pth --autoencoder {tmp_path}/autoencoder_vq_f4.pth "
        f"--preset sinsr-v1 -o {tmp_path}/sinsr-v1\n"
    )
    lines = err.splitlines()
    assert "SinSR_v1.pth: unet of about" in lines[0] and "LICENSE file of https://github.com/wyf0912/SinSR" in lines[0]
    assert "LICENSE file of https://github.com/zsyOAOA/ResShift" in lines[1]
    assert any("SinSR_v1.pth  100%" in line for line in lines[2:])
    assert "SHA-256" in lines[-1] and "downloaded, 24 bytes" in lines[-1]


def test_quiet_still_shows_the_licence(server, tmp_path, capsys):
    _, _, err = tadsr(capsys, "sinsr-v1", "-q", "-o", str(tmp_path), "--mirror", server.address)
    assert "LICENSE" in err and "MB/s" not in err


def test_the_licence_is_shown_before_the_first_byte(server, tmp_path, capsys):
    server.files.clear()
    code, out, err = tadsr(capsys, "sinsr-v1", "-o", str(tmp_path), "--mirror", server.address)
    assert code == 1 and out == ""
    lines = err.splitlines()
    assert "Licence" in lines[0] and lines[-1].startswith(
        f"error: {server.address}/SinSR_v1.pth: the server answered HTTP 404"
    )


@pytest.mark.parametrize(("answer", "code", "asked"), [("n", 1, 0), ("y", 0, 2), ("", 0, 2)])
def test_a_person_is_asked_and_may_decline(server, tmp_path, capsys, monkeypatch, answer, code, asked):
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: answer)
    argv = ["sinsr-v1", "-o", str(tmp_path), "--mirror", server.address]
    monkeypatch.setattr(sys, "stdin", _Terminal())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert tadsr(capsys, *argv)[0] == code and len(server.asked) == asked


def test_a_person_who_said_yes_is_not_asked(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: pytest.fail("asked"))
    monkeypatch.setattr(sys, "stdin", _Terminal())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert tadsr(capsys, "sinsr-v1", "--yes", "-o", str(tmp_path), "--mirror", server.address)[0] == 0


class _Terminal:
    def isatty(self):
        return True


def test_an_autoencoder_alone_ends_with_its_path(server, tmp_path, capsys):
    code, out, _ = tadsr(capsys, "vq-f4", "-o", str(tmp_path), "--mirror", server.address)
    assert (code, out) == (0, f"{tmp_path}/autoencoder_vq_f4.pth\n")


def test_json_is_one_object(server, tmp_path, capsys):
    argv = ["sinsr-v1", "--json", "-o", str(tmp_path), "--mirror", server.address]
    told = json.loads(tadsr(capsys, *argv)[1])
    assert [file["status"] for file in told["files"]] == ["downloaded"] * 2
    assert told["next"].startswith("tadsr convert resshift --unet ")
    assert [file["status"] for file in json.loads(tadsr(capsys, *argv)[1])["files"]] == ["already there"] * 2


@pytest.mark.parametrize("argv", [[], ["--list"]])
def test_the_table_says_where_how_large_and_on_what_terms(capsys, argv):
    code, out, _ = tadsr(capsys, *argv)
    assert code == 0
    for name, release in releases.RELEASES.items():
        assert f"\n{name} " in out
        for address in release.addresses:
            assert address in out
        assert release.licence in out
    assert "TAD-SR.pth: no public address" in out and "478 MB" in out and "SHA-256" in out


def test_the_table_as_json(capsys):
    told = json.loads(tadsr(capsys, "--json")[1])
    assert told.keys() == releases.RELEASES.keys()
    assert told["sinsr-v1"]["needs"] == "vq-f4" and told["sinsr-v1"]["addresses"][0].startswith("https://")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["sinsr-v9"], "error: no release is called 'sinsr-v9'"),
        (["tad-sr"], "error: tad-sr: https://github.com/LearningHx/TAD-SR names no public address"),
        (["sinsr-v1", "--mirror", "weights/"], "error: the mirror is 'weights/'"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(tmp_path, capsys, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = tadsr(capsys, *argv)
    assert code == 2 and out == "" and err.startswith(said) and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_module_is_the_same_command(capsys):
    code, out, _ = tadsr(capsys, "--list", room="download")
    assert code == 0 and "sinsr-v1" in out
