"""The door: `python -m studio --output FOLDER` loads the results of a run and shows them on 127.0.0.1."""

import argparse
import contextlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from job.errors import JobError, SettingsError
from studio import places, results

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "studio"
PORT = "8001"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until it is interrupted; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m studio", description="Shows results of a run in LightlyStudio.")
    parser.add_argument("--output", default="", help="output folder of a run: a path, s3://, gs:// or az://")
    parser.add_argument("--input", default="", help="where its images are now, if not in its CORAL_INPUT any more")
    parser.add_argument("--port", default="", help=f"on 127.0.0.1, by default {PORT}")
    given = parser.parse_args(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            show(given.output, given.input, _port(given.port or PORT))
    except JobError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def show(output: str, source: str, port: int) -> None:
    """Loads the results of a run, unless they are from an earlier start, and serves them.

    Raises:
        JobError: They cannot be read.
    """
    run = results.read(output)
    where = places.of(run, source)
    names = places.present(run, where)
    print(f"Loading the results in {run.uri}, with the images in {where.uri} ...", flush=True)
    if lost := len(run.images) - len(names):
        print(f"WARNING: {lost} of {len(run.images)} images are not there any more and are left out.", flush=True)
    if run.failed:
        print(f"{run.failed} images that the job could not use are left out: see failures.jsonl.", flush=True)
    # It takes seconds to import, and is not needed to find out that a setting is wrong.
    from studio import database, gui

    with database.opened(CACHE, run, where, names):
        print(
            f"\nOpen http://{gui.HOST}:{port} and\n"
            f"  - tick the tag {run.tag} and sort by metadata.rank: the {len(run.picks)} picks, best first;\n"
            "  - sort by metadata.uncertainty_entropy, or filter by it, by classes and by num_boxes: where the model "
            "struggles;\n"
            "  - double-click an image: its boxes, its scores and, of a pick, the reason;\n"
            "  - press Embed: what the picks cover.\n"
            "End it with Ctrl-C.\n",
            flush=True,
        )
        gui.serve(port)


def _port(text: str) -> int:
    """The port to serve on.

    Raises:
        SettingsError: It is none, or in use.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise SettingsError(f"PORT={text!r} is no port: give a number from 1 to 65535.")
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", int(text)))
        except OSError as error:
            raise SettingsError(
                f"Port {text} of 127.0.0.1 cannot be had ({error.strerror}): end what uses it, or set another PORT."
            ) from None
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
