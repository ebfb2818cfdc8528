"""The recorded numbers of the public code, through the runners of `python -m tests.parity`; and the command itself."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.parity import __main__ as command
from tests.parity.cases import Case, Verdict, _share, _sliced, check, find
from tests.parity.runners import RUNNERS

FIXTURES = Path(__file__).parent / "fixtures"
CASES = list(find(FIXTURES))
# Cases of one network go to one worker, where it is compiled once.
GROUPS = {"tadsr_losses": "tadsr", "sinsr_losses": "tadsr", "train_step": "tadsr"}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.xdist_group(GROUPS.get(case.kind, case.kind))) for case in CASES],
    ids=lambda case: case.name,
)
def test_our_code_computes_what_the_public_code_did(case):
    verdict = check(case, RUNNERS[case.kind])
    assert verdict.passed, f"{verdict.why}: {verdict.worst:.3g} of the tolerance"


def test_every_kind_that_has_a_runner_has_a_case_here():
    assert {case.kind for case in CASES} == set(RUNNERS)


@pytest.fixture
def folder(tmp_path):
    """A folder with one case of a schedule, one that cannot pass, and one of a kind that nobody knows."""
    source = next(case for case in CASES if case.kind == "schedule")
    for name, changes in (("good", {}), ("deep/wrong", {}), ("new", {"kind": "telepathy"})):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "case.json").write_text(json.dumps(source.spec | changes))
        arrays = dict(source.arrays)
        if name == "deep/wrong":
            arrays["etas"] = arrays["etas"] * 1.01
        np.savez(tmp_path / name / "arrays.npz", **arrays)
    return tmp_path


def test_the_command_prints_a_table_and_fails_if_a_case_fails(folder, capsys):
    assert command.main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert "deep/wrong" in out and "FAIL  etas" in out
    assert "not covered: telepathy (1 cases)" in out and "1 passed, 1 failed" in out


def test_lists_are_looked_for_in_the_parents_of_a_relative_folder_too(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "net.json").write_text('{"a.weight": [2, 3]}')
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "case.json").write_text('{"kind": "x", "shapes": "@lists/net.json", "seed": 1}')
    monkeypatch.chdir(tmp_path / "deep")
    (case,) = find(Path("."))
    assert case.weights()["a.weight"].shape == (2, 3)


def test_kinds_without_a_runner_do_not_fail(folder):
    assert command.main([str(folder), "--kind", "telepathy"]) == 0


def test_json_is_one_object_and_nothing_else(folder, capsys):
    command.main([str(folder), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["not_covered"] == ["telepathy"]
    by_case = {row["case"]: row for row in told["cases"]}
    assert by_case["good"]["passed"] and not by_case["deep/wrong"]["passed"]
    assert set(by_case["good"]) == {"case", "kind", "worst", "passed"}


def test_a_runner_that_raises_or_forgets_an_output_fails_the_case(folder):
    case = Case(folder / "good", folder)
    assert check(case, lambda case: 1 / 0).why.startswith("ZeroDivisionError")
    assert "etas" in check(case, lambda case: {"sqrt_etas": case.arrays["sqrt_etas"]}).why


def test_the_error_is_a_share_of_the_tolerance():
    assert _share([1.1], [1.0], rtol=0.1, atol=0.1) == pytest.approx(0.5)
    assert _share([1, 2], [1, 2], rtol=0, atol=0) == 0
    assert _share([np.nan], [1.0], rtol=1, atol=1) == np.inf
    assert _share([1, 2, 3], [1, 2], rtol=1, atol=1) == np.inf
    assert not Verdict(1.01, "").passed


def test_slices_are_numpy_expressions():
    x = np.arange(24).reshape(2, 3, 4)
    for text, want in (("[:, ::2]", x[:, ::2]), ("..., 1:3", x[..., 1:3]), (":, ::2, ::3", x[:, ::2, ::3])):
        np.testing.assert_array_equal(_sliced(x, text), want)
    assert _sliced(x, None) is x
