import dataclasses
import shlex

import pytest

from tadsr_jax import download, releases
from tests.served import served

pytestmark = pytest.mark.quick

UNET, AUTOENCODER = b"the weights of the U-Net", b"those of its autoencoder"


@pytest.fixture
def server(monkeypatch):
    small = {name: dataclasses.replace(release, parameters=6) for name, release in releases.RELEASES.items()}
    monkeypatch.setattr(releases, "RELEASES", small)
    monkeypatch.setattr(releases, "UNET_BUFFER_BYTES", 0)
    with served(SinSR_v1__pth=UNET, autoencoder_vq_f4__pth=AUTOENCODER) as told:
        yield told


def test_a_release_brings_its_autoencoder(server, tmp_path):
    told = []
    fetched = download.get("sinsr-v1", tmp_path, mirror=server.address, progress=lambda *line: told.append(line))
    assert [file.path.name for file in fetched] == ["SinSR_v1.pth", "autoencoder_vq_f4.pth"]
    assert (tmp_path / "SinSR_v1.pth").read_bytes() == UNET
    assert (tmp_path / "autoencoder_vq_f4.pth").read_bytes() == AUTOENCODER
    assert told == [("SinSR_v1.pth", 24, 24), ("autoencoder_vq_f4.pth", 24, 24)]


def test_an_autoencoder_that_is_there_serves_every_release(server, tmp_path):
    download.get("vq-f4", tmp_path, mirror=f"{server.address}/")
    again = download.get("SinSR_v1.pth", tmp_path, mirror=server.address)
    assert [file.status for file in again] == ["downloaded", "already there"]
    assert [path for path, _ in server.asked] == ["/autoencoder_vq_f4.pth", "/SinSR_v1.pth"]


def test_without_a_mirror_the_addresses_are_the_authors(server, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(download.files, "fetch", lambda addresses, path, **options: asked.append(addresses))
    download.get("sinsr-v1", tmp_path)
    assert asked[0] == ("https://github.com/wyf0912/SinSR/releases/download/v1.0/SinSR_v1.pth",)
    assert [address.split("/")[-2] for address in asked[1]] == ["v2.0", "v1.0"]  # it is in two releases


def test_a_release_without_an_address_says_what_to_do(server, tmp_path):
    with pytest.raises(ValueError, match=r"tad-sr: .* names no public address of TAD-SR\.pth\. Once you have") as error:
        download.get("tad-sr", tmp_path)
    said = str(error.value)
    assert "`tadsr download vq-f4`" in said and f"`{download.next_command('tad-sr', tmp_path)}`" in said
    assert "\n" not in said and not server.asked


def test_with_its_file_at_hand_only_the_autoencoder_is_fetched(server, tmp_path):
    (tmp_path / "TAD-SR.pth").write_bytes(UNET)
    fetched = download.get("tad-sr", tmp_path, mirror=server.address)
    assert [file.status for file in fetched] == ["already there", "downloaded"]


def test_a_mirror_is_an_address(tmp_path):
    with pytest.raises(ValueError, match="mirror is 'file:///etc'; expected an address that starts with http"):
        download.get("sinsr-v1", tmp_path, mirror="file:///etc")


def test_the_next_command_makes_a_bundle_of_what_came(tmp_path):
    words = shlex.split(download.next_command("sinsr-v1", "my weights"))
    assert words == [
        *("tadsr", "convert", "resshift", "--unet", "my weights/SinSR_v1.pth"),
        *("--autoencoder", "my weights/autoencoder_vq_f4.pth", "--preset", "sinsr-v1", "-o", "my weights/sinsr-v1"),
    ]
    assert download.next_command("vq-f4", "weights") is None
