"""`make demo`: runs the whole job on 250 frames of a street scene, exactly as a user would."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from demo import fetch, summary

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "demo" / "output"


def environment() -> dict[str, str]:
    """The variables that the demo sets; all other settings have their defaults."""
    return {
        "CORAL_INPUT": shorten(fetch.FRAMES),
        "CORAL_OUTPUT": shorten(OUTPUT),
        "CORAL_MODEL": "demo/yolov3-tiny.yaml",
        "CORAL_WEIGHTS": shorten(fetch.WEIGHTS),
        "CORAL_N_SAMPLES": "20",
        "CORAL_FULL_FEATURES": "1",  # of 250 images they need little memory
        "CORAL_LOG_FORMAT": "text",
    }


def main() -> int:
    """Fetches missing files and runs the job; returns its exit code."""
    fetch.fetch()
    variables = environment()
    print("\nPicking the 20 of 250 street frames most worth labelling, with YOLOv3-tiny trained on COCO. Command:\n")
    print("\n".join(f"  {name}={value} \\" for name, value in variables.items()))
    print("  python entrypoint.py\n", flush=True)
    # Settings of the user, such as a Lightly token, must not apply to the demo.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CORAL_", "LIGHTLY_"))}
    process = subprocess.Popen([sys.executable, "entrypoint.py"], cwd=ROOT, env=kept | variables)
    # Ctrl-C reaches the job as well, which then saves its work and ends by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_code = process.wait()
    if exit_code == 0:
        python = shorten(Path(sys.executable))
        print(f"\n{summary.describe(OUTPUT)}")
        print(f"\nNext: open {(OUTPUT / 'report.html').as_uri()} in a browser, or all images with their boxes:")
        print(f"  make studio OUTPUT={variables['CORAL_OUTPUT']}\nSecond round, once the picks have labels:")
        print(summary.render_next_round(variables, python))
        print(f"Your own images:\n  CORAL_INPUT=/your/images CORAL_OUTPUT=/your/results {python} entrypoint.py")
    return exit_code


def shorten(path: Path) -> str:
    """Returns the path relative to the repository, so that users can copy the command from any checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
