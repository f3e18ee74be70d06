# One image for the whole job. Build it with `make image`, then run it:
# docker run --gpus all -e CORAL_INPUT=... -e CORAL_OUTPUT=... coralpick
# The wheels of torch bring CUDA, so the base is plain Debian with Python 3.11. Any other base works if its `python3` is
# 3.11 and can create virtual environments. The digest is that of the multi-platform index; docs/docker.md says how to look up
# another. The detectron2 package exists for amd64 only.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${BASE_IMAGE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# An index of torch wheels for an older CUDA, such as https://download.pytorch.org/whl/cu126, for drivers before 580.
ARG TORCH_INDEX_URL=
# 0 leaves out PyAV, whose wheel contains libraries under the GPL. Then the job refuses videos.
ARG VIDEO=1
WORKDIR /build
COPY requirements/runtime.txt requirements/torch.txt requirements/detectron2.txt requirements/timm.txt requirements/video.txt requirements/
COPY scripts/install.sh scripts/
# The build cache, not the image, keeps what pip downloads, so that the next build can reuse it.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv \
    && TORCH_INDEX_URL="${TORCH_INDEX_URL}" VIDEO="${VIDEO}" scripts/install.sh /opt/venv/bin/python
COPY entrypoint.py /app/
COPY job /app/job
COPY scripts/__init__.py scripts/bake.py scripts/
# Bakes the weights of one model-zoo model into the image, for offline use: the name of its yaml, or none.
ARG BAKE_WEIGHTS=none
RUN PYTHONPATH=/app /opt/venv/bin/python -W ignore -m scripts.bake "${BAKE_WEIGHTS}" /weights
# Any user may read these files, even if the file modes of the checkout are stricter.
RUN /opt/venv/bin/python -m compileall -q /app && chmod -R a+rX /app /weights

FROM ${BASE_IMAGE}
COPY --from=build /opt/venv /opt/venv
COPY --from=build /weights /app/weights
COPY --from=build /app/job /app/job
COPY --from=build /app/entrypoint.py /app/
# Libraries keep their files below /tmp, so that the job runs under any user id and on a read-only root file system.
# The NVIDIA variables ask the container runtime for the GPUs, CUDA and the driver's status. Google's machines have the
# driver's libraries in /usr/local/nvidia. Images of many shapes would leave gaps in the memory of the GPU, if torch could
# not extend its segments. Ray would tell its vendor how it is used.
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    TORCH_HOME=/tmp/.cache/torch \
    TORCHINDUCTOR_CACHE_DIR=/tmp/.cache/inductor \
    TRITON_CACHE_DIR=/tmp/.cache/triton \
    FVCORE_CACHE=/tmp/.cache/fvcore \
    MPLCONFIGDIR=/tmp/.cache/matplotlib \
    NUMBA_CACHE_DIR=/tmp/.cache/numba \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    PYTORCH_ALLOC_CONF=expandable_segments:True \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG BASE_IMAGE
ARG VERSION=unknown
ARG COMMIT=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="coralpick" \
      org.opencontainers.image.description="Finds the images of an unlabelled pool whose labels will help a detector most" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
WORKDIR /app
USER 10001:0
ENTRYPOINT ["python", "/app/entrypoint.py"]
