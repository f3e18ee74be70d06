"""Runs the checks or the benchmark: `python -m gpu test`, `bench` or `rehearse`.

`rehearse` runs all of it on a CPU at toy size, so that nothing fails for a typo on the day there is a GPU.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from gpu.harness import Bench, Runner

ROOT = Path(__file__).resolve().parent.parent
LISTS = {"test": ("gpu.checks", 240.0), "bench": ("gpu.bench", 150.0)}  # module and seconds


TITLES = {"test": "gpu-test", "bench": "gpu"}  # names of the files with the results


def main() -> int:
    """Runs what the command line says; returns 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m gpu", description=__doc__)
    parser.add_argument("command", choices=[*LISTS, "rehearse"])
    parser.add_argument("--seconds", type=float, help="seconds for all checks; one that does not fit is skipped")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder for JSON and logs")
    parser.add_argument("--folder", type=Path, help="folder for images and weights, kept for a second call")
    parser.add_argument("--only", action="append", help="name of one check; may be repeated")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    toy = arguments.command == "rehearse"
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench("cpu" if toy else "cuda", toy, folder)
        passed = True
        for name in LISTS if toy else [arguments.command]:
            shutil.rmtree(folder / "out", ignore_errors=True)
            module, seconds = LISTS[name]
            title = f"gpu-{name}-rehearsal" if toy else TITLES[name]
            runner = Runner(module, bench, seconds=arguments.seconds or seconds, output=arguments.output, title=title)
            passed &= runner.run(arguments.only)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
