import hashlib
import json
import resource
import signal
import socket
import threading
import types

import pytest

from tadsr_jax import download
from tadsr_jax.download import DownloadFailed, transfer
from tests.served import served

pytestmark = pytest.mark.quick

BODY = bytes(range(256)) * 1200  # 307,200 bytes: more than a socket's buffer takes at once
DIGEST = hashlib.sha256(BODY).hexdigest()
OTHER = BODY[::-1]


@pytest.fixture
def server():
    with served(net__pth=BODY) as told:
        yield told


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights" / "net.pth"


def fetch(server, path, **options):
    return download.fetch([f"{server.address}/net.pth"], path, **{"wait": 0} | options)


def names(path):
    """What lies in the folder of `path`."""
    return sorted(file.name for file in path.parent.iterdir())


# --- when all goes well ---------------------------------------------------------------------------------------------


def test_a_file_comes_whole_with_its_checksum_recorded_as_sha256sum_writes_it(server, path):
    told = []
    fetched = fetch(server, path, progress=lambda *counts: told.append(counts))
    assert path.read_bytes() == BODY
    assert fetched == download.Fetched(path, len(BODY), DIGEST, "downloaded")
    assert (path.parent / "net.pth.sha256").read_text() == f"{DIGEST}  net.pth\n"
    assert names(path) == ["net.pth", "net.pth.sha256"]
    counts, totals = zip(*told, strict=True)
    assert list(counts) == sorted(counts) and counts[-1] == len(BODY) and set(totals) == {len(BODY)}


def test_a_file_that_is_there_is_not_asked_for_but_checked(server, path):
    fetch(server, path)
    again = fetch(server, path)
    assert again.status == "already there" and again.sha256 == DIGEST and len(server.asked) == 1


def test_a_body_in_chunks_of_no_stated_length_is_fine(server, path):
    server.chunked = True
    fetch(server, path)
    assert path.read_bytes() == BODY


def test_the_next_address_is_tried_where_the_first_has_no_such_file(server, path):
    notes = []
    addresses = [f"{server.address}/gone.pth", f"{server.address}/net.pth"]
    download.fetch(addresses, path, note=notes.append)
    assert path.read_bytes() == BODY and "HTTP 404" in notes[0]


# --- cut connections ------------------------------------------------------------------------------------------------


def test_a_cut_download_goes_on_where_it_was_cut(server, path):
    server.cuts = [100_000, 50_000]
    notes = []
    fetch(server, path, note=notes.append)
    assert path.read_bytes() == BODY
    assert server.ranges_asked == [None, "bytes=100000-", "bytes=150000-"]
    assert server.asked[1][1]["If-Range"] == '"1"'
    assert notes == [
        f"the connection was cut at {n:,} of 307,200 bytes; trying again in 0 s" for n in (100_000, 150_000)
    ]


def test_the_next_call_goes_on_where_the_last_gave_up(server, path):
    server.cuts = [100_000]
    with pytest.raises(
        DownloadFailed, match=r"gave up after 1 tries\. 100,000 bytes are kept; the same command goes on"
    ):
        fetch(server, path, tries=1)
    assert names(path) == ["net.pth.part", "net.pth.part.json"]
    assert (path.parent / "net.pth.part").read_bytes() == BODY[:100_000]
    first = []
    fetch(server, path, progress=lambda count, total: first.append((count, total)))
    assert path.read_bytes() == BODY and server.ranges_asked == [None, "bytes=100000-"]
    assert first[0][0] > 100_000 and first[0][1] == len(BODY)
    assert names(path) == ["net.pth", "net.pth.sha256"]


def test_what_was_complete_but_not_yet_renamed_needs_no_server(server, path):
    server.cuts = [1000]
    with pytest.raises(DownloadFailed):
        fetch(server, path, tries=1)
    (path.parent / "net.pth.part").write_bytes(BODY)
    fetch(server, path)
    assert path.read_bytes() == BODY and len(server.asked) == 1


def test_a_cut_in_chunks_is_noticed_and_starts_anew(server, path):
    server.chunked, server.cuts = True, [100_000]
    fetch(server, path)
    assert path.read_bytes() == BODY and server.ranges_asked == [None, None]


def test_a_server_without_ranges_sends_all_of_it_again(server, path):
    server.ranges, server.cuts = False, [100_000]
    fetch(server, path)
    assert path.read_bytes() == BODY and server.ranges_asked == [None, "bytes=100000-"]


def test_a_server_that_tells_no_version_is_not_asked_for_a_part(server, path):
    server.etag, server.cuts = 'W/"weak"', [100_000]
    fetch(server, path)
    assert path.read_bytes() == BODY and server.ranges_asked == [None, None]


def test_the_date_serves_where_there_is_no_etag(server, path):
    server.etag, server.date, server.cuts = None, "Wed, 21 Oct 2015 07:28:00 GMT", [100_000]
    fetch(server, path)
    assert path.read_bytes() == BODY and server.asked[1][1]["If-Range"] == server.date


@pytest.mark.parametrize("minds_if_range", [True, False])
def test_a_file_that_changed_in_between_starts_anew(server, path, minds_if_range):
    server.cuts = [100_000]
    with pytest.raises(DownloadFailed):
        fetch(server, path, tries=1)
    server.files["net.pth"], server.etag, server.minds_if_range = OTHER, '"2"', minds_if_range
    fetch(server, path)
    assert path.read_bytes() == OTHER


def test_a_file_that_became_shorter_than_what_is_here_starts_anew(server, path):
    server.cuts = [100_000]
    with pytest.raises(DownloadFailed):
        fetch(server, path, tries=1)
    server.files["net.pth"], server.minds_if_range = BODY[:5000], False
    fetch(server, path)
    assert path.read_bytes() == BODY[:5000]


@pytest.mark.parametrize("about", ["", "{}", "[]", '{"address": 3}'])
def test_a_part_that_nobody_knows_is_not_continued(server, path, about):
    path.parent.mkdir()
    (path.parent / "net.pth.part").write_bytes(b"something else")
    (path.parent / "net.pth.part.json").write_text(about)
    fetch(server, path)
    assert path.read_bytes() == BODY and server.ranges_asked == [None]


def test_the_start_of_a_file_from_another_address_is_not_continued(server, path):
    server.cuts, server.files["copy.pth"] = [100_000], OTHER
    with pytest.raises(DownloadFailed):
        fetch(server, path, tries=1)
    download.fetch([f"{server.address}/copy.pth"], path)
    assert path.read_bytes() == OTHER


# --- servers and networks that fail ---------------------------------------------------------------------------------


def test_a_server_in_trouble_is_asked_again_a_few_times_with_growing_pauses(server, path, monkeypatch):
    pauses = []
    monkeypatch.setattr(transfer.time, "sleep", pauses.append)
    server.statuses = [503, 429]
    fetch(server, path, wait=1)
    assert path.read_bytes() == BODY and pauses == [1, 2]
    path.unlink()
    server.statuses = [500] * 9
    with pytest.raises(DownloadFailed, match="HTTP 500 Internal Server Error; gave up after 3 tries"):
        fetch(server, path, tries=3)
    assert len(server.asked) == 6


@pytest.mark.parametrize("status", [404, 403])
def test_a_file_that_is_not_there_is_said_at_once_with_a_way_out(server, path, status):
    server.statuses = [status]
    with pytest.raises(DownloadFailed, match=rf"net\.pth: the server answered HTTP {status} .* put it at .*net\.pth;"):
        fetch(server, path)
    assert len(server.asked) == 1 and names(path) == []


def test_without_a_network_there_is_one_line_and_what_came_is_kept(server, path):
    server.cuts = [100_000]
    with pytest.raises(DownloadFailed):
        fetch(server, path, tries=1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(
        DownloadFailed, match=rf"127.0.0.1:{port} cannot be reached \(Connection refused\); gave up"
    ) as e:
        download.fetch([f"http://127.0.0.1:{port}/net.pth"], path, tries=2, wait=0)
    assert "\n" not in str(e.value)
    assert (path.parent / "net.pth.part").stat().st_size == 100_000


def test_a_server_that_falls_silent_counts_as_cut(path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/net.pth"
        with pytest.raises(DownloadFailed, match="timed out"):
            download.fetch([address], path, tries=2, wait=0, timeout=0.05)


def test_what_does_not_speak_http_is_one_line_too(path):
    def greet():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"220 mail ready\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(DownloadFailed, match=r"cannot be reached \(220 mail ready"):
            download.fetch([f"http://127.0.0.1:{listener.getsockname()[1]}/net.pth"], path, tries=1)
        thread.join()


def test_a_body_of_unknown_length_is_refused(server, path):
    server.says_length = False
    with pytest.raises(DownloadFailed, match="does not say how long it is"):
        fetch(server, path)
    assert names(path) == []


def test_a_page_instead_of_weights_is_refused_before_it_is_taken(server, path):
    with pytest.raises(
        DownloadFailed, match="307,200 bytes, where about 2,000,000 are expected; this is no file of weights"
    ):
        fetch(server, path, about_bytes=2_000_000)
    assert names(path) == []


def test_half_precision_is_noted_and_the_usual_size_is_not(server, path):
    notes = []
    fetch(server, path, about_bytes=2 * len(BODY), note=notes.append)
    assert len(notes) == 1 and "307,200 bytes, where about 614,400 are expected" in notes[0]
    path.unlink()
    fetch(server, path, about_bytes=int(1.05 * len(BODY)), note=notes.append)
    assert len(notes) == 1


# --- checksums ------------------------------------------------------------------------------------------------------


def test_a_wrong_file_is_not_left_in_place_nor_continued(server, path):
    with pytest.raises(DownloadFailed, match=f"SHA-256 is {DIGEST}, expected {'0' * 64} .as published.* was removed"):
        fetch(server, path, sha256="0" * 64)
    assert names(path) == []


def test_the_published_checksum_lets_the_right_file_pass(server, path):
    assert fetch(server, path, sha256=DIGEST).sha256 == DIGEST


def test_a_later_download_must_be_the_file_that_came_first(server, path):
    fetch(server, path)
    path.unlink()
    server.files["net.pth"] = OTHER
    with pytest.raises(DownloadFailed, match=r"recorded in .*net\.pth\.sha256 when it first came; delete that"):
        fetch(server, path)
    assert names(path) == ["net.pth.sha256"]
    (path.parent / "net.pth.sha256").unlink()
    fetch(server, path)
    assert path.read_bytes() == OTHER


def test_a_file_that_was_damaged_later_is_reported_and_left_to_its_owner(server, path):
    fetch(server, path)
    path.write_bytes(OTHER)
    with pytest.raises(DownloadFailed, match=r"net\.pth: its SHA-256 is .* Delete the file to download it anew\."):
        fetch(server, path)
    assert path.read_bytes() == OTHER and len(server.asked) == 1


def test_a_file_put_there_by_hand_is_recorded_when_it_is_first_met(path):
    path.parent.mkdir()
    path.write_bytes(BODY)
    assert download.verify(path) == DIGEST
    assert (path.parent / "net.pth.sha256").read_text().startswith(DIGEST)
    with pytest.raises(DownloadFailed, match="as published"):
        download.verify(path, "1" * 64)


def test_a_record_that_holds_no_checksum_is_said_before_anything_is_fetched(server, path):
    path.parent.mkdir()
    (path.parent / "net.pth.sha256").write_text("<html>")
    with pytest.raises(ValueError, match=r"net\.pth\.sha256 holds no SHA-256; delete it"):
        fetch(server, path)
    assert not server.asked


# --- disks ----------------------------------------------------------------------------------------------------------


def test_too_little_room_is_seen_before_the_first_byte(server, path, monkeypatch):
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=300_000))
    with pytest.raises(DownloadFailed, match="307,200 bytes are to come, and 300,000 are free on the disk; make room"):
        fetch(server, path)


def test_a_disk_that_fills_up_is_one_line_and_what_came_is_kept(server, path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DownloadFailed, match=r"no room left on the disk .* kept in net\.pth\.part; make room"):
            fetch(server, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (path.parent / "net.pth.part").read_bytes() == BODY[:100_000]
    fetch(server, path)
    assert path.read_bytes() == BODY and server.ranges_asked == [None, "bytes=100000-"]


def test_the_final_name_appears_when_the_file_is_whole(server, path):
    seen = []
    fetch(server, path, progress=lambda *counts: seen.append(path.exists()))
    assert seen and not any(seen) and path.exists()


def test_two_processes_do_not_fill_one_file(server, path):
    path.parent.mkdir()
    with transfer.Partial(path).alone(), pytest.raises(DownloadFailed, match="another process is downloading it"):
        fetch(server, path)
    assert not server.asked


def test_a_folder_that_is_a_file_is_the_systems_own_error(server, tmp_path):
    (tmp_path / "weights").write_text("")
    with pytest.raises(OSError, match="weights"):
        fetch(server, tmp_path / "weights" / "net.pth")


def test_the_note_of_a_part_says_which_file_it_is(server, path):
    server.cuts = [10]
    with pytest.raises(DownloadFailed):
        fetch(server, path, tries=1)
    about = json.loads((path.parent / "net.pth.part.json").read_text())
    assert about == {"address": f"{server.address}/net.pth", "validator": '"1"', "total": len(BODY)}
