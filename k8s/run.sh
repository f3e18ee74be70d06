#!/bin/bash
# Runs the Jobs of an overlay one after the other: run.sh [--wait|--render] base|sharded|eks|gke|FOLDER
# It deletes and recreates the Jobs; the new ones resume the work of the old ones. It can be interrupted at any time:
# the Jobs keep running, and --wait waits for them again. --render only prints the manifests. Exit codes: 0 all Jobs have
# completed, 1 a Job has failed, 64 the overlay has no Jobs, 75 the cluster cannot be reached.
set -euo pipefail
mode=run
case ${1:-} in --wait | --render) mode=${1#--} && shift ;; esac
overlay=${1:-base}
folder=$overlay
[ -d "$folder" ] || folder=$(dirname "$0")/$overlay
manifest=$(kubectl kustomize "$folder")
if [ "$mode" = render ]; then
    echo "$manifest"
    exit
fi
# Namespace (or - for the current namespace) and name of each Job.
jobs=$(awk '
    /^---/ || /^[a-z]/ {section = $1}
    /^kind: /          {kind = $2; namespace = "-"}
    section == "metadata:" && /^  name: /      {name = $2}
    section == "metadata:" && /^  namespace: / {namespace = $2}
    section == "spec:" && kind == "Job"        {print namespace, name; kind = ""}' <<<"$manifest")
if [ -z "$jobs" ]; then
    echo "$folder has no Jobs: start it with kubectl apply -k $(printf %q "$folder")." >&2
    exit 64
fi
pause=5          # seconds
max_failures=120 # in a row: ten minutes without the cluster

in_namespace() {
    local namespace=$1
    shift
    if [ "$namespace" = - ]; then kubectl "$@"; else kubectl --namespace "$namespace" "$@"; fi
}

give_up() {
    echo "Cannot reach the cluster. The Jobs keep running; to wait for them again, run $(printf '%q --wait %q' "$0" "$overlay")" >&2
    exit 75
}

# Starts a Job that is suspended; Jobs that are not suspended stay unchanged.
resume() {
    local tries=0
    until in_namespace "$1" patch job "$2" --type=merge --patch '{"spec": {"suspend": false}}' >/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 12 ] || give_up
        sleep $pause
    done
}

# Waits until the Job has finished: returns 0 if it is complete, or 1 if it has failed, with the reason in $failed.
wait_for() {
    local failures=0 state
    local query='jsonpath={.metadata.name}:{range .status.conditions[?(@.type=="Failed")]}{.reason}: {.message}{end}'
    until in_namespace "$1" wait --for=condition=complete --timeout="${pause}s" "job/$2" >/dev/null 2>&1; do
        if state=$(in_namespace "$1" get job "$2" --ignore-not-found --output "$query"); then
            [ -n "$state" ] || { echo "job/$2 no longer exists: it was deleted." >&2 && exit 1; }
            failed=${state#"$2:"}
            [ -z "$failed" ] || return 1
            failures=0
        else
            failures=$((failures + 1))
            [ $failures -lt $max_failures ] || give_up
        fi
        sleep 1 # kubectl wait may have ended before its timeout
    done
}

if [ "$mode" = run ]; then
    # A Job is immutable, so it is deleted first. Its output stays, and finished work is not repeated.
    while read -r namespace job; do
        in_namespace "$namespace" delete job "$job" --ignore-not-found --cascade=foreground </dev/null
    done <<<"$jobs"
    kubectl apply -f - <<<"$manifest"
fi
while read -r namespace job <&3; do
    resume "$namespace" "$job"
    option=$([ "$namespace" = - ] || echo "--namespace $namespace ")
    echo "Waiting for job/$job. To follow its logs: kubectl ${option}logs --follow --prefix --selector job-name=$job"
    if ! wait_for "$namespace" "$job"; then
        echo "job/$job has failed. $failed" >&2
        in_namespace "$namespace" logs --tail=5 --prefix --selector "job-name=$job" >&2 || true
        echo "Finished work is saved. Fix the problem and run the same command again to resume." >&2
        exit 1
    fi
done 3<<<"$jobs"
echo "All Jobs have completed. The picks are in selected.txt in CORAL_OUTPUT."
