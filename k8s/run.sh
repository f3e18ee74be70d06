#!/bin/bash
# Runs the Jobs of an overlay one after the other: run.sh [--wait|--render] base|sharded|eks|gke|FOLDER
# It makes the Jobs anew, and they go on where the old ones were. Interrupt it whenever you like: the Jobs go on, and --wait
# waits for them again. --render only prints what would be sent. Exit codes: 0 all have completed, 1 one has failed, 64 there
# is nothing to run, 75 the cluster cannot be reached any more.
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
# Namespace (or -, for the current one) and name of each Job.
jobs=$(awk '
    /^---/ || /^[a-z]/ {section = $1}
    /^kind: /          {kind = $2; namespace = "-"}
    section == "metadata:" && /^  name: /      {name = $2}
    section == "metadata:" && /^  namespace: / {namespace = $2}
    section == "spec:" && kind == "Job"        {print namespace, name; kind = ""}' <<<"$manifest")
if [ -z "$jobs" ]; then
    echo "There are no Jobs in $folder: start it with kubectl apply -k $folder." >&2
    exit 64
fi
pause=5
most_failures=120 # in a row: ten minutes without the cluster

in_namespace() {
    local namespace=$1
    shift
    if [ "$namespace" = - ]; then kubectl "$@"; else kubectl --namespace "$namespace" "$@"; fi
}

lost() {
    echo "The cluster cannot be reached. The Jobs go on; to wait for them again: $0 --wait $overlay" >&2
    exit 75
}

# A Job that is suspended until its turn has come; to others it changes nothing.
resume() {
    local tries=0
    until in_namespace "$1" patch job "$2" --type=merge --patch '{"spec": {"suspend": false}}' >/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 12 ] || lost
        sleep $pause
    done
}

# Ends when the Job has come to either end: 0 if it is complete, 1 if it has failed, with the reason in $failed.
finished() {
    local failures=0 seen
    local state='jsonpath={.metadata.name}:{range .status.conditions[?(@.type=="Failed")]}{.reason}: {.message}{end}'
    until in_namespace "$1" wait --for=condition=complete --timeout="${pause}s" "job/$2" >/dev/null 2>&1; do
        if seen=$(in_namespace "$1" get job "$2" --ignore-not-found --output "$state"); then
            [ -n "$seen" ] || { echo "job/$2 is gone: somebody has deleted it." >&2 && exit 1; }
            failed=${seen#"$2:"}
            [ -z "$failed" ] || return 1
            failures=0
        else
            failures=$((failures + 1))
            [ $failures -lt $most_failures ] || lost
        fi
        sleep 1 # should it not be the time that ended the wait
    done
}

if [ "$mode" = run ]; then
    # A Job cannot be changed. What it has written stays, and is not done again.
    while read -r namespace job; do
        in_namespace "$namespace" delete job "$job" --ignore-not-found --cascade=foreground </dev/null
    done <<<"$jobs"
    kubectl apply -f - <<<"$manifest"
fi
while read -r namespace job <&3; do
    resume "$namespace" "$job"
    shown=$([ "$namespace" = - ] || echo "--namespace $namespace ")
    echo "Waiting for job/$job. Meanwhile: kubectl ${shown}logs --follow --prefix --selector job-name=$job"
    if ! finished "$namespace" "$job"; then
        echo "job/$job has failed. $failed" >&2
        in_namespace "$namespace" logs --tail=5 --prefix --selector "job-name=$job" >&2 || true
        echo "What is done is saved: after a remedy, the same command goes on from there." >&2
        exit 1
    fi
done 3<<<"$jobs"
echo "All is done: the names are in selected.txt in CORAL_OUTPUT."
