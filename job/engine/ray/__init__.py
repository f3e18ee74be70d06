"""Ray as the engine: a worker for each GPU. Nothing else of the job imports Ray."""

from job.engine.ray.cluster import describe_cluster
from job.engine.ray.engine import OnRay
from job.engine.ray.rows import hold_rows

__all__ = ["OnRay", "describe_cluster", "hold_rows"]
