"""Limits of a file of embeddings: a small compressed file can hold more than the memory of any machine."""

from job.limits import memory_limit

MAX_DIMENSIONS = 65_536  # the longest usual ones, flattened features of VGG, have 25,088


def check_dimensions(count: int) -> None:
    """Refuses vectors with too many dimensions.

    Args:
        count: Number of dimensions.

    Raises:
        ValueError: If there are more than `MAX_DIMENSIONS`.
    """
    if count > MAX_DIMENSIONS:
        raise ValueError(
            f"has embeddings of {count:,} dimensions, more than the limit of {MAX_DIMENSIONS:,}: reduce them, for "
            "example by PCA"
        )


def check_memory(num_bytes: int) -> None:
    """Refuses content that does not fit into the memory of this process.

    Args:
        num_bytes: Size of the content after it is unpacked.

    Raises:
        ValueError: If it does not fit.
    """
    if num_bytes > (limit := memory_limit()):
        raise ValueError(
            f"needs {num_bytes / 2**30:,.1f} GiB of memory, but the job may use {limit / 2**30:,.1f} GiB: give shorter "
            "embeddings, or more memory"
        )
