#!/bin/bash
# Runs the Jobs of an overlay one after the other in the current namespace: run.sh base|sharded|eks|gke|FOLDER
# Its exit code is 0 when all have completed, 1 when one has failed. Interrupt it whenever you like: the Jobs go on, and
# to wait for them again, start it with --wait. Without that it makes the Jobs anew, which go on where the old ones were.
set -euo pipefail
if [ "${1:-}" = --wait ]; then again=1; shift; else again=; fi
overlay=${1:-base}
folder=$overlay
[ -d "$folder" ] || folder=$(dirname "$0")/$overlay
manifest=$(kubectl kustomize "$folder")
jobs=$(awk '/^kind: /{job = $2 == "Job"} /^  name: /{if (job) print $2} /^spec:/{job = 0}' <<<"$manifest")
if [ -z "$jobs" ]; then
    echo "There are no Jobs in $folder: start it with kubectl apply -k $folder." >&2
    exit 64
fi

reason='jsonpath={range .status.conditions[?(@.type=="Failed")]}{.reason}: {.message}{end}'

# Ends when the Job has come to either end: 0 if it is complete, 1 if it has failed.
finished() {
    until kubectl wait --for=condition=complete --timeout=10s "job/$1" >/dev/null 2>&1; do
        failed=$(kubectl get job "$1" --output "$reason") || {
            echo "The Job goes on. To wait for it again: $0 --wait $overlay" >&2
            exit 1
        }
        [ -z "$failed" ] || return 1
    done
}

if [ -z "$again" ]; then
    # A Job cannot be changed. What it has written stays, and is not done again.
    for job in $jobs; do kubectl delete job "$job" --ignore-not-found --cascade=foreground; done
    kubectl apply -f - <<<"$manifest"
fi
for job in $jobs; do
    kubectl patch job "$job" --type=merge --patch '{"spec": {"suspend": false}}' >/dev/null
    echo "Waiting for job/$job. Meanwhile: kubectl logs --follow job/$job"
    if ! finished "$job"; then
        echo "job/$job has failed. $failed" >&2
        kubectl logs --tail=5 --prefix "--selector=job-name=$job" >&2 || true
        echo "What is done is saved: after a remedy, the same command goes on from there." >&2
        exit 1
    fi
done
echo "All is done: the names are in selected.txt in CORAL_OUTPUT."
