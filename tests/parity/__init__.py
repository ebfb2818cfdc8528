"""The referee: recorded cases, found by their `case.json`, run by `kind`, compared with stored numbers.

    python -m tests.parity DIR [--kind K] [--json]

cases.py  the format: find, inputs, weights, compare      RUNNERS  kind -> function(case) -> {output key: array}
A runner returns full results under the case's own output keys; slices and tolerances are applied in `cases.check`.
"""
