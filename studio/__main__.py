"""Process entry point: `python -m studio --output FOLDER` shows the results of a run on 127.0.0.1."""

import argparse
import contextlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from job.errors import JobError, SettingsError
from job.names import quantify
from studio import places, results

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "studio"
PORT = "8001"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until the user interrupts it; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studio", description="Shows the results of a run in LightlyStudio."
    )
    parser.add_argument("--output", default="", help="output folder of a run: a path, s3://, gs:// or az://")
    parser.add_argument("--input", default="", help="current folder of the images, if it is no longer CORAL_INPUT")
    parser.add_argument("--port", default="", help=f"port on 127.0.0.1 (default: {PORT})")
    options = parser.parse_args(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            show(options.output, options.input, _parse_port(options.port or PORT))
    except JobError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def show(output: str, source: str, port: int) -> None:
    """Loads the results of a run, unless an earlier start has loaded them, and serves them.

    Args:
        output: Output folder of the run, as the user gave it.
        source: Folder or list with the images, if the user gave one; otherwise empty.
        port: Port on 127.0.0.1.

    Raises:
        JobError: If the results or the images cannot be read.
    """
    run = results.read(output)
    image_places = places.locate(run, source)
    names = places.find_present(run, image_places)
    print(f"Loading the results in {run.uri}, with the images in {image_places.uri} ...", flush=True)
    if num_missing := len(run.images) - len(names):
        print(f"WARNING: Skipping {num_missing} of {len(run.images)} images that no longer exist.", flush=True)
    if run.num_failed:
        print(
            f"Skipping {quantify(run.num_failed, 'image')} that the job could not use: see failures.jsonl.", flush=True
        )
    # Imported late: LightlyStudio takes seconds to import, and mistakes in the options should be reported at once.
    from studio import database, gui

    with database.open_dataset(CACHE, run, image_places, names):
        print(
            f"\nOpen http://{gui.HOST}:{port} and\n"
            f"  - tick the tag {run.tag} and sort by metadata.rank to see the {len(run.picks)} picks, best first;\n"
            "  - sort or filter by metadata.uncertainty_entropy, classes and num_boxes to find difficult images;\n"
            "  - double-click an image to see its boxes, its scores and the reason for a pick;\n"
            "  - press Embed to see which images the picks cover.\n"
            "Stop with Ctrl-C.\n",
            flush=True,
        )
        gui.serve(port)


def _parse_port(text: str) -> int:
    """Parses the port to serve on, and checks that it is free.

    Raises:
        SettingsError: If the text is not a port, or if the port is in use.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise SettingsError(f"PORT={text!r} is not a port: give a number from 1 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError as error:
            raise SettingsError(
                f"Cannot use port {text} on 127.0.0.1 ({error.strerror}): stop the program that uses it, or set "
                "another PORT."
            ) from None
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
