"""Copies between main memory and the GPU, while the GPU computes."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class OnItsWay:
    """Tensors whose copy has been requested.

    Attributes:
        tensors: Their copies, which are valid after `arrived`.
        arrived: The end of the copy; None if nothing had to be copied.
    """

    tensors: list[torch.Tensor]
    arrived: torch.cuda.Event | None = None

    def wait(self) -> list[torch.Tensor]:
        """Waits for the copies, and returns them."""
        if self.arrived:
            self.arrived.synchronize()
        return self.tensors


class Copies:
    """Copies batches to a GPU and results back.

    A thread puts the images of the next batch together, so that the thread that runs the model never does. They travel
    on a stream of their own. torch keeps pinned memory for the next batch once the GPU has read it, so only the first
    batches wait for memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="copy")

    def close(self) -> None:
        """Ends the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def send(self, images: Sequence[torch.Tensor]) -> Future[OnItsWay]:
        """Begins to copy images to the GPU.

        Args:
            images: (3, h, w) uint8, all of one shape.
        """
        return self._executor.submit(self._send, images)

    def _send(self, images: Sequence[torch.Tensor]) -> OnItsWay:
        host = stack(images, pinned=True)
        with torch.cuda.stream(self._stream):
            batch = host.to(self._device, non_blocking=True)
            return OnItsWay([batch], self._record())

    def receive(self, sent: Future[OnItsWay]) -> torch.Tensor:
        """Returns the batch, (n, 3, h, w) uint8 on the GPU, which waits for its last byte; this thread does not."""
        on_its_way = sent.result()
        stream = torch.cuda.current_stream(self._device)
        if on_its_way.arrived:
            stream.wait_event(on_its_way.arrived)
        (batch,) = on_its_way.tensors
        batch.record_stream(stream)  # its memory belongs to the other stream
        return batch

    def fetch(self, results: Sequence[torch.Tensor]) -> OnItsWay:
        """Begins to copy results of the GPU to main memory, after the work that was requested so far."""
        hosts = [torch.empty(result.shape, dtype=result.dtype, pin_memory=True) for result in results]
        for host, result in zip(hosts, results, strict=True):
            host.copy_(result, non_blocking=True)
        with torch.cuda.device(self._device):
            return OnItsWay(hosts, self._record())

    def _record(self) -> torch.cuda.Event:
        # A thread that waits for this event sleeps, so that the core can decode images.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def stack(images: Sequence[torch.Tensor], *, pinned: bool = False) -> torch.Tensor:
    """Puts images of one shape together without a transposition: the batch has the memory layout of the first image.

    Args:
        images: (3, h, w); contiguous, or views of contiguous (h, w, 3) memory.
        pinned: Whether to use pinned memory, which a GPU reads without the CPU.

    Returns:
        Shape (n, 3, h, w).
    """
    first = images[0]
    channels_last = first.permute(1, 2, 0).is_contiguous() and not first.is_contiguous()
    order, back = ((1, 2, 0), (0, 3, 1, 2)) if channels_last else ((0, 1, 2), (0, 1, 2, 3))
    arranged = [image.permute(order) for image in images]
    out = torch.empty((len(images), *arranged[0].shape), dtype=first.dtype, pin_memory=pinned)
    # Releases the interpreter's lock, so that the other threads go on.
    return torch.stack(arranged, out=out).permute(back)
