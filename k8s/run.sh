#!/bin/bash
# Runs the Jobs of an overlay one after the other: run.sh [--wait|--render] base|sharded|eks|gke|FOLDER
# It deletes and recreates the Jobs; the new ones resume the work of the old ones. It can be interrupted at any time:
# the Jobs keep running, and --wait waits for them again. --render only prints the manifests. Exit codes: 0 all Jobs have
# completed, 1 a Job has failed or the cluster refuses the overlay, 64 there are no Jobs to wait for, 75 the cluster
# cannot be reached, 130 interrupted.
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
# Seconds: between two looks at a Job, without the cluster, without a running pod, and between two reports of the reason.
pause=5 max_outage=600 max_idle=20 report_interval=60
wait_again=$(printf '%q --wait %q' "$0" "$overlay")

# kubectl wait catches the signal and exits with 1, so bash would not end by itself. The message needs the descriptor,
# since the signal may arrive where the output is discarded.
exec 9>&2
trap 'echo "Interrupted. Jobs that exist keep running; to wait for them again, run $wait_again" >&9; exit 130' INT

in_namespace() {
    local namespace=$1
    shift
    if [ "$namespace" = - ]; then kubectl "$@"; else kubectl --namespace "$namespace" "$@"; fi
}

give_up() {
    echo "Cannot reach the cluster. The Jobs keep running; to wait for them again, run $wait_again" >&2
    exit 75
}

# Starts a Job that is suspended; Jobs that are not suspended stay unchanged.
resume() {
    local start=$SECONDS error
    until error=$(in_namespace "$1" patch job "$2" --type=merge --patch '{"spec": {"suspend": false}}' 2>&1 >/dev/null); do
        case $error in
        *"(NotFound)"*)
            echo "There is no job/$2 to wait for. To start it, run $(printf '%q %q' "$0" "$overlay")" >&2
            exit 64
            ;;
        *"(Forbidden)"* | *"(Unauthorized)"*)
            echo "$error" >&2
            exit 1
            ;;
        esac
        [ $((SECONDS - start)) -lt $max_outage ] || give_up
        sleep $pause
    done
}

# Prints the last warning about a Job or its pods, such as a quota that is exceeded or an image that does not exist.
find_warning() {
    local format='{range .items[*]}{.involvedObject.kind}/{.involvedObject.name}: {.message}{"\n"}{end}'
    in_namespace "$1" get events --field-selector type=Warning --sort-by=.metadata.creationTimestamp \
        --output "jsonpath=$format" 2>/dev/null | grep -E "^(Job/$2:|Pod/$2-)" | tail -n 1
}

# Waits until the Job has finished: returns 0 if it is complete, or 1 if it has failed, with the reason in $failed.
# While no pod is ready, it reports why.
wait_for() {
    local reached=$SECONDS idle_since=$SECONDS state ready warning
    local failure='{range .status.conditions[?(@.type=="Failed")]}{.reason}: {.message}{end}'
    local query="jsonpath={.metadata.name}|{.status.ready}|$failure"
    until in_namespace "$1" wait --for=condition=complete --timeout="${pause}s" "job/$2" >/dev/null 2>&1; do
        if state=$(in_namespace "$1" get job "$2" --ignore-not-found --output "$query" 2>/dev/null); then
            [ -n "$state" ] || { echo "job/$2 no longer exists: it was deleted." >&2 && exit 1; }
            IFS='|' read -r _ ready failed <<<"$state"
            [ -z "$failed" ] || return 1
            reached=$SECONDS
            if [ "${ready:-0}" != 0 ]; then
                idle_since=$SECONDS
            elif [ $((SECONDS - idle_since)) -ge $max_idle ]; then
                idle_since=$((SECONDS + report_interval - max_idle))
                warning=$(find_warning "$1" "$2") && echo "No pod of job/$2 is running. $warning" >&2
            fi
        else
            [ $((SECONDS - reached)) -lt $max_outage ] || give_up
        fi
        sleep 1 # kubectl wait may have ended before its timeout
    done
}

# Prints the last log lines of the pods of a Job that failed last, in the order in which they were created.
print_logs() {
    local pod
    for pod in $(in_namespace "$1" get pods --selector "job-name=$2" --field-selector status.phase=Failed \
        --sort-by=.metadata.creationTimestamp --output name | tail -n 3); do
        in_namespace "$1" logs --tail=5 --prefix "$pod" || true
    done
}

if [ "$mode" = run ]; then
    # Nothing is deleted for an overlay that the cluster would then refuse.
    refused=$(kubectl create --dry-run=server --filename - <<<"$manifest" 2>&1 >/dev/null | grep -i '^error' | grep -v '(AlreadyExists)' || true)
    if [ -n "$refused" ]; then
        echo "$refused" >&2
        echo "The cluster refuses the overlay, so nothing was changed." >&2
        case $refused in *namespaces*"not found"*) echo "To create a namespace: kubectl create namespace NAME" >&2 ;; esac
        exit 1
    fi
    # A Job is immutable, so it is deleted first. Its output stays, and finished work is not repeated.
    while read -r namespace job; do
        in_namespace "$namespace" delete job "$job" --ignore-not-found --cascade=foreground </dev/null
    done <<<"$jobs"
    kubectl apply -f - <<<"$manifest"
fi
while read -r namespace job <&3; do
    resume "$namespace" "$job"
    option=$([ "$namespace" = - ] || echo "--namespace $namespace ")
    echo "Waiting for job/$job. To follow its logs: kubectl ${option}logs --follow --prefix --max-log-requests 1000 --selector job-name=$job"
    if ! wait_for "$namespace" "$job"; then
        echo "job/$job has failed. $failed" >&2
        print_logs "$namespace" "$job" >&2 || true
        echo "Finished work is saved. Fix the problem and run the same command again to resume." >&2
        exit 1
    fi
done 3<<<"$jobs"
echo "All Jobs have completed. The picks are in selected.txt in CORAL_OUTPUT."
