"""What a run tells: lines of JSON, each step once, and nothing that another reader cannot parse."""

import json
import logging
import sys

import pytest

from tadsr_jax import logs

pytestmark = pytest.mark.quick


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_scalars_become_a_line_of_json_and_a_number_that_is_not_finite_becomes_null(tmp_path):
    writer = logs.Writer(tmp_path)
    writer.scalars(5, {"loss": 0.25, "rate": float("nan"), "norm": float("inf")})
    assert lines(tmp_path) == [{"step": 5, "loss": 0.25, "rate": None, "norm": None}], (
        "written at once, not when closed"
    )
    writer.close()


def test_a_resumed_run_drops_the_lines_after_its_step_and_the_one_that_was_cut(tmp_path):
    with_cut = '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n{"step": 3, "loss": 0.3}\n{"step": 4, "lo'
    (tmp_path / "metrics.jsonl").write_text(with_cut)
    writer = logs.Writer(tmp_path, resume_step=2)
    writer.scalars(3, {"loss": 0.31})
    writer.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 0.31)]


def test_events_can_be_read_back_with_a_mark_where_the_run_was_resumed(tmp_path):
    import numpy as np
    from tensorboardX.proto.event_pb2 import Event

    writer = logs.Writer(tmp_path, resume_step=7)
    writer.scalars(8, {"loss": 0.5})
    writer.image(8, "validation", np.zeros((4, 6, 3), np.uint8))
    writer.close()
    (file,) = (tmp_path / "tensorboard").glob("*tfevents*")
    data, events = file.read_bytes(), []
    while data:  # a record: its length, a checksum, the event, a checksum
        length = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    assert events[1].step == 8 and events[1].HasField("session_log"), "TensorBoard hides older events from this step on"
    scalar, image = events[2].summary.value[0], events[3].summary.value[0]
    assert (events[2].step, scalar.tag, scalar.simple_value) == (8, "loss", 0.5)
    assert (events[3].step, image.image.height, image.image.width) == (8, 4, 6)


def test_a_full_disk_is_an_error_at_once_and_not_a_wait_for_ever(tmp_path, monkeypatch):
    from tensorboardX import record_writer

    writer = logs.Writer(tmp_path)

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        writer.scalars(1, {"loss": 1.0})


def test_the_progress_line_shows_rate_time_left_losses_and_waiting(capsys):
    logs.progress("tadsr", 20, 620, rate=0.5, waiting=0.031, values={"mse": 0.01234, "gan": -1.5})
    assert capsys.readouterr().err == "tadsr 20/620  0.5 steps/s  ETA 20:00  mse 0.01234  gan -1.5  data 3%\n"


def test_on_a_terminal_the_progress_line_replaces_the_one_before_and_other_lines_stay(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    logs.progress("x", 1, 3, 1.0, 0.0, {})
    logs.progress("x", 2, 3, 1.0, 0.0, {})
    logs.say("a line of its own")
    logs.progress("x", 3, 3, 1.0, 0.0, {})
    first, second, own, last = capsys.readouterr().err.split("\r\x1b[K")[1:]
    assert first.startswith("x 1/3") and not first.endswith("\n") and not second.endswith("\n")
    assert own == "a line of its own\n" and last.endswith("\n")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")])
def test_times_are_written_as_on_a_clock(seconds, text):
    assert logs.clock(seconds) == text


def test_warnings_become_single_lines_and_the_news_of_orbax_none(capsys):
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.unraisablehook
    try:
        logs.warn_in_lines()
        logging.warning("Skipped a picture: %s", "a.png:\n  damaged")
        logging.info("of no interest")
        logging.getLogger("absl").error("Traceback of what is raised as well")
    finally:
        root.handlers[:], root.level, sys.unraisablehook = before
    assert capsys.readouterr().err == "warning: Skipped a picture: a.png: damaged\n"


def test_events_can_be_followed_while_the_run_goes_on(tmp_path):
    writer = logs.Writer(tmp_path)
    (events,) = (tmp_path / "tensorboard").iterdir()
    before = events.stat().st_size
    writer.scalars(1, {"mse": 0.5})
    assert events.stat().st_size > before
    writer.close()
