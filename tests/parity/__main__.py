"""python -m tests.parity DIR [--kind K] [--json]: run every recorded case below DIR; exit 1 if one fails."""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import jax

from tests.parity.cases import check, find
from tests.parity.runners import RUNNERS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("dir", type=Path, help="a folder of recorded cases, at any depth")
    parser.add_argument("--kind", help="only the cases of this kind")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args(argv)
    if not options.dir.is_dir():
        parser.error(f"{options.dir} is no folder")
    cases = [case for case in find(options.dir) if options.kind in (None, case.kind)]
    if not cases:
        parser.error(f"no case.json below {options.dir}" + (f" of kind {options.kind!r}" if options.kind else ""))

    # Cases share most of their programs: one that was compiled for an earlier case is taken from there.
    cache = tempfile.TemporaryDirectory(prefix="parity-")
    jax.config.update("jax_compilation_cache_dir", cache.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

    # Cases of one kind and config follow each other, so that a network is compiled once for all of them.
    covered = sorted(
        (case for case in cases if case.kind in RUNNERS),
        key=lambda case: (case.kind, json.dumps(case.spec.get("config"), sort_keys=True), case.name),
    )
    not_covered = sorted({case.kind for case in cases} - set(RUNNERS))
    width = max((len(case.name) for case in covered), default=0)
    rows = []
    for case in covered:
        started = time.monotonic()
        with contextlib.redirect_stdout(sys.stderr):  # whatever a library prints must not spoil --json
            verdict = check(case, RUNNERS[case.kind])
        rows.append(
            {"case": case.name, "kind": case.kind, "worst": min(verdict.worst, 1e308), "passed": verdict.passed}
        )
        if not options.json:
            end = "pass" if verdict.passed else f"FAIL  {verdict.why}"
            seconds = time.monotonic() - started
            print(f"{case.name:{width}}  {case.kind:24}  {verdict.worst:9.3g}  {seconds:6.1f} s  {end}", flush=True)
    failed = sum(not row["passed"] for row in rows)
    if options.json:
        print(json.dumps({"cases": rows, "not_covered": not_covered}))
    else:
        for kind in not_covered:
            print(f"not covered: {kind} ({sum(case.kind == kind for case in cases)} cases)")
        print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
