"""Videos: from a file to its frames, in order, with their time. PyAV is imported with the first video."""

from job.video.names import EXTENSIONS, Frame, is_video, name_frame, parse_frame
from job.video.sampling import Sampling

__all__ = ["EXTENSIONS", "Frame", "Sampling", "is_video", "name_frame", "parse_frame"]
