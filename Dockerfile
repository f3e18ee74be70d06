# One image for the whole job: `make image`, then `docker run --gpus all -e CORAL_INPUT=... -e CORAL_OUTPUT=... coralpick`.
# CUDA comes with the wheels of torch, so the base is plain Debian with Python 3.11. Another base works if its `python3` is
# 3.11 and can make virtual environments. README.md says how to pin this one by its digest. The package of detectron2 is
# for amd64 alone.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# An index of torch wheels for an older CUDA, such as https://download.pytorch.org/whl/cu126, for drivers before 580.
ARG TORCH_INDEX_URL=
WORKDIR /build
COPY requirements/runtime.txt requirements/detectron2.txt requirements/
COPY scripts/install.sh scripts/
# What pip downloads is kept beside the image, for the next build.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv \
    && TORCH_INDEX_URL="${TORCH_INDEX_URL}" scripts/install.sh /opt/venv/bin/python
COPY entrypoint.py /app/
COPY job /app/job
COPY scripts/__init__.py scripts/bake.py scripts/
# The weights of one model of the zoo, to be had without a network: the name of its yaml, or none.
ARG BAKE_WEIGHTS=none
RUN PYTHONPATH=/app /opt/venv/bin/python -W ignore -m scripts.bake "${BAKE_WEIGHTS}" /weights
# Whatever the modes of the checkout are, any user may read what is here.
RUN /opt/venv/bin/python -m compileall -q /app && chmod -R a+rX /app /weights

FROM ${BASE_IMAGE}
COPY --from=build /opt/venv /opt/venv
COPY --from=build /weights /app/weights
COPY --from=build /app/job /app/job
COPY --from=build /app/entrypoint.py /app/
# Whatever the user's number is, and however little of the file system can be written, all that libraries want to keep
# goes below /tmp. The NVIDIA variables ask the container runtime for the GPUs, CUDA and the state of the driver, whose
# libraries Google's machines leave in /usr/local/nvidia.
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
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG VERSION=unknown
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="coralpick" \
      org.opencontainers.image.description="Finds the images of an unlabelled pool whose labels will help a detector most" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
WORKDIR /app
USER 10001:0
ENTRYPOINT ["python", "/app/entrypoint.py"]
