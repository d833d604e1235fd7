"""Measures Walnut against a bare Flask route under the same Gunicorn: `make bench`, or `python -m bench --help`.

A shared machine is never twice the same, so nothing here compares two runs: every figure is a ratio of measurements
taken seconds apart in one run. docs/performance.md says what is measured and holds the table of one run.
"""
