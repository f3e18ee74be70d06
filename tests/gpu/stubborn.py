"""Checks that end in every way a check can end, for test_harness.py."""

import os
import time

from gpu.harness import Bench, Check, Finding, Skipped


def _crash(bench: Bench) -> Finding:
    os.abort()


def _hang(bench: Bench) -> Finding:
    time.sleep(600)
    raise AssertionError


def _raise(bench: Bench) -> Finding:
    raise ValueError("no such thing")


def _skip(bench: Bench) -> Finding:
    raise Skipped("there is no second GPU")


def list_checks() -> list[Check]:
    return [
        Check("good", 1, lambda bench: Finding("fine", {"number": bench.size(8, 2)})),
        Check("crash", 1, _crash),
        Check("raise", 1, _raise),
        Check("hang", 0, _hang),
        Check("wrong", 1, lambda bench: Finding("it ran", problems=["other boxes"])),
        Check("skip", 1, _skip),
        Check("long", 1000, lambda bench: Finding("it must not run")),
        Check("last", 1, lambda bench: Finding(f"in process {os.getpid()}")),
    ]
