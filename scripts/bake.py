"""Puts the weights of a model into a folder, for an image that works offline: `bake MODEL|none FOLDER`."""

import shutil
import sys
from pathlib import Path

from job import logs
from job.detect import config, model, weights
from job.errors import JobError
from job.settings import Settings


def main(name: str, folder: str) -> int:
    """Downloads the weights of a model and checks that they fit it; returns the exit code.

    Args:
        name: Model-zoo config of the model, or ``none`` to download nothing.
        folder: Folder for the weights.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    if name == "none":
        return 0
    logs.configure("text")
    settings = Settings(input="", output="", model=name, device="cpu")
    try:
        model.build(settings)
        path = weights.fetch(config.read(settings).weights)
    except JobError as error:
        print(f"BAKE_WEIGHTS: {error}", file=sys.stderr)
        return error.exit_code
    shutil.copytree(path.parent, Path(folder) / path.parent.name)
    print(f"The image contains the weights of {name}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
