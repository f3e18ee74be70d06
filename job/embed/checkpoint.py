"""The state of a training in the output, so that one that was killed goes on with the same result."""

import hashlib
import io
import logging
import pickle
from typing import Any

import torch

from job.parts import FOLDER
from job.storage import Storage, read_required

logger = logging.getLogger(__name__)

KEY = FOLDER + "simclr.pt"
_DIGEST_BYTES = 32


class Checkpoint:
    """The state after the last finished epoch, in one file of the output.

    Args:
        output: Folder of the results.
        digest: Digest of everything that the training depends on. The state of another training is not read.
    """

    def __init__(self, output: Storage, digest: str) -> None:
        self._output, self._digest = output, digest

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """Reads the state of this training; None if there is none, or it is damaged.

        Args:
            device: Where its tensors go.
        """
        if self._output.stat(KEY) is None:
            return None
        content = read_required(self._output, KEY)
        expected, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != expected:
            logger.warning("%s/%s is damaged: the embedding is trained from the beginning.", self._output.uri, KEY)
            return None
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError):  # of another version of torch
            return None
        return state if state.pop("digest", None) == self._digest else None

    def write(self, state: dict[str, Any]) -> None:
        """Writes the state after an epoch.

        Args:
            state: Tensors, numbers, and dicts and lists of them.
        """
        buffer = io.BytesIO()
        torch.save({**state, "digest": self._digest}, buffer)
        data = buffer.getvalue()
        self._output.write(KEY, hashlib.sha256(data).digest() + data)

    def delete(self) -> None:
        """Deletes the state, once the embeddings are in the output."""
        self._output.delete(KEY)
