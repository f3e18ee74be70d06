"""Work on a GPU that stops where it needs numbers from there, so that another batch can be started before they come."""

from collections.abc import Generator
from typing import TypeAlias, TypeVar

import torch

T = TypeVar("T")

# Yields a small tensor of integers, is sent its numbers, and returns the result.
Steps: TypeAlias = Generator[torch.Tensor, list[int], T]


def run(steps: Steps[T]) -> T:
    """Does all steps, and waits for the numbers of each."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(wanted.tolist())
    except StopIteration as end:
        result: T = end.value
        return result
