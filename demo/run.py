"""`make demo`: the whole job on 250 frames of a street scene, exactly as a user would run it."""

import os
import subprocess
import sys
from pathlib import Path

from demo import fetch

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "demo" / "output"


def environment() -> dict[str, str]:
    """The variables that the demo sets; everything else is at its default."""
    return {
        "CORAL_INPUT": _shown(fetch.FRAMES),
        "CORAL_OUTPUT": _shown(OUTPUT),
        "CORAL_MODEL": "demo/yolov3-tiny.yaml",
        "CORAL_WEIGHTS": _shown(fetch.WEIGHTS),
        "CORAL_N_SAMPLES": "20",
        "CORAL_LOG_FORMAT": "text",
    }


def main() -> int:
    """Fetches what is missing and runs the job; returns its exit code."""
    fetch.fetch()
    variables = environment()
    print("\nThe 20 frames most worth labelling, of 250 street frames, by YOLOv3-tiny trained on COCO. This is:\n")
    print("\n".join(f"  {name}={value} \\" for name, value in variables.items()))
    print("  python entrypoint.py\n", flush=True)
    # A token in the environment is for somebody's own images, not for these.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CORAL_", "LIGHTLY_"))}
    done = subprocess.run([sys.executable, "entrypoint.py"], cwd=ROOT, env=kept | variables, check=False)
    if done.returncode == 0:
        print("\nNext: open demo/output/report.html in a browser; look through all images with their boxes:")
        print("  make studio OUTPUT=demo/output\nor run it on your own folder:")
        print(f"  CORAL_INPUT=/your/images CORAL_OUTPUT=/your/results {_shown(Path(sys.executable))} entrypoint.py")
    return done.returncode


def _shown(path: Path) -> str:
    """Relative to the repository, so that the command can be copied, whatever the folder is called."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
