"""What a selection will take: memory, temporary files, results and time, computed from the size of its pool.

The constants were measured with `benchmarks.reduce`; a test compares the forecast with a real run.
"""

from dataclasses import dataclass

# Of the process with its libraries, and of what a stage works on whatever the size of the pool.
_BASE_BYTES = 340e6
# Grows with the pool: names, sizes, scores and distances, and the copies that a stage makes of some of them.
_BYTES_PER_IMAGE = 500
# The boxes of each part in memory, checked and converted: those that are read ahead, one ready and one in use.
_COPIES_OF_PART, _PARTS_BESIDES = 8.5, 2
_BYTES_PER_BOX = 24  # besides its probabilities
_HALF_BYTES, _SINGLE_BYTES = 2, 4
# In temporary files: the features; then the embeddings, or the boxes and their table. The larger one counts.
_SPOOLED_BYTES_PER_BOX = 70
# With coral_objects: the features of boxes in temporary files; their weights and distances in memory.
_OBJECT_BYTES_PER_BOX, _OBJECT_MEMORY_PER_BOX = 128, 20
# Results besides the embeddings, which are compressed to about half.
_RESULT_BYTES, _RESULT_BYTES_PER_IMAGE, _RESULT_BYTES_PER_BOX = 10e6, 120, 40
_EMBEDDING_SHARE = 0.6
_CPU_SECONDS, _CPU_SECONDS_PER_IMAGE = 12, 0.15e-3
_CPU_SECONDS_PER_OBJECT = 9e-6  # with coral_objects, of a box
_CPU_SECONDS_PER_PRODUCT = 0.12e-9  # of the embedding of an image with that of a labelled image or a pick
_THUMBNAIL_BYTES = 4e3  # of an image, in a temporary file, if SimCLR is trained
_COPIES_OF_VECTORS = 3  # in memory, of embeddings from a file
# Where nothing is known yet.
TYPICAL_BOXES, TYPICAL_CLASSES, TYPICAL_WIDTH, TYPICAL_FULL_WIDTH = 10, 80, 256, 2048
MARGIN = 1.3  # between the forecast and what is certain to be enough


@dataclass(frozen=True)
class PoolSize:
    """What the need of a selection depends on.

    Attributes:
        images: Number of images.
        boxes_per_image: Mean number of boxes.
        classes: Number of classes.
        width: Numbers in an embedding; 0 without embeddings.
        part_images: Images of the largest part.
        num_ahead: Number of parts that are read ahead.
        centers: Number of labelled images and picks.
        in_memory: Whether the embeddings are held in memory, as those from a file are.
        trains: Whether SimCLR is trained.
        uses_objects: Whether the features of boxes are read.
    """

    images: int
    boxes_per_image: float = TYPICAL_BOXES
    classes: int = TYPICAL_CLASSES
    width: int = TYPICAL_WIDTH
    part_images: int = 16_384
    num_ahead: int = 1
    centers: int = 100
    in_memory: bool = False
    trains: bool = False
    uses_objects: bool = False


@dataclass(frozen=True)
class Need:
    """What a selection will take.

    Attributes:
        memory_bytes: Peak of the process.
        temporary_bytes: Peak of its temporary files.
        result_bytes: Size of the results, without pictures.
        cpu_seconds: Processor time.
    """

    memory_bytes: float
    temporary_bytes: float
    result_bytes: float
    cpu_seconds: float


def forecast(pool: PoolSize) -> Need:
    """Forecasts what a selection will take.

    Args:
        pool: Its size.
    """
    count, boxes = pool.images, pool.images * pool.boxes_per_image
    vectors = count * pool.width * _SINGLE_BYTES
    object_bytes = _OBJECT_BYTES_PER_BOX if pool.uses_objects else 0
    per_box = _BYTES_PER_BOX + _HALF_BYTES * (pool.classes + 1) + object_bytes
    part = min(count, pool.part_images) * pool.boxes_per_image * per_box
    memory = _BASE_BYTES + count * _BYTES_PER_IMAGE + _COPIES_OF_PART * (pool.num_ahead + _PARTS_BESIDES) * part
    if pool.uses_objects:
        memory += boxes * _OBJECT_MEMORY_PER_BOX
    if pool.in_memory:
        memory += _COPIES_OF_VECTORS * vectors
    embeddings = _EMBEDDING_SHARE * vectors
    return Need(
        memory_bytes=memory,
        temporary_bytes=vectors
        + max(embeddings, boxes * _SPOOLED_BYTES_PER_BOX, boxes * object_bytes)
        + (count * _THUMBNAIL_BYTES if pool.trains else 0),
        result_bytes=_RESULT_BYTES + embeddings + count * _RESULT_BYTES_PER_IMAGE + boxes * _RESULT_BYTES_PER_BOX,
        cpu_seconds=_CPU_SECONDS
        + count * _CPU_SECONDS_PER_IMAGE
        + (boxes * _CPU_SECONDS_PER_OBJECT if pool.uses_objects else 0)
        + count * pool.centers * pool.width * _CPU_SECONDS_PER_PRODUCT,
    )


def count_images_that_fit(memory_bytes: float, temporary_bytes: float, *, temporary_in_memory: bool) -> int:
    """Counts the images of a typical pool that fit, with the margin.

    Args:
        memory_bytes: Memory that the process may use.
        temporary_bytes: Room for temporary files.
        temporary_in_memory: Whether temporary files count as memory, as in a tmpfs.
    """
    low, high = 0, 1 << 34
    while low < high:
        middle = (low + high + 1) // 2
        need = forecast(PoolSize(middle))
        memory = need.memory_bytes + (need.temporary_bytes if temporary_in_memory else 0)
        if MARGIN * memory <= memory_bytes and MARGIN * need.temporary_bytes <= temporary_bytes:
            low = middle
        else:
            high = middle - 1
    return low
