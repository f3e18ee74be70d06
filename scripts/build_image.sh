#!/bin/bash
# Builds the image of this folder: build_image.sh [options of docker build]
# The image gets an SBOM and its provenance as BuildKit's attestations, if the engine can keep them with a local image.
# ATTEST=0 leaves them out: BuildKit pulls a scanner for the SBOM, which a closed network cannot reach.
set -euo pipefail
docker=${DOCKER:-docker}
attestations=()
reason=""

# The classic image store of Docker has no place for attestations, and the build would end with an error.
if [ "${ATTEST:-1}" = 0 ]; then
    reason="ATTEST=0"
elif ! "$docker" buildx version >/dev/null 2>&1; then
    reason="docker buildx is missing"
elif ! "$docker" info --format '{{.DriverStatus}}' 2>/dev/null | grep -q io.containerd.snapshotter; then
    reason="this engine does not use Docker's containerd image store"
else
    attestations=(--sbom=true --provenance=mode=max)
fi

DOCKER_BUILDKIT=1 "$docker" build ${attestations[@]+"${attestations[@]}"} "$@"
if [ -n "$reason" ]; then
    echo "The image has no SBOM and no provenance ($reason). make image-sbom writes the SBOM to a file."
fi
