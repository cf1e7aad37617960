#!/usr/bin/env bash
# The conformance suite of the Firecracker driver. Runs where KVM runs stock kernels, be that this host or a nested one.
#
#   suite.sh TESTS [NAME...]     TESTS is a folder with a test executable per name; without names, the suite's
#
# OMNIRUN_BIN, OMNIRUN_TEST_DATA, FIRECRACKER_BIN and JAILER_BIN are set by the caller.
set -uo pipefail
tests=$1
shift
[ $# -gt 0 ] || set -- firecracker card network network_deaths run isolation session_modes worker_sim session_deaths snapshots hostile kill9 trial_boot setup restores

# Its exit code is about QEMU, too.
doctor=$("$OMNIRUN_BIN" --data-dir "$OMNIRUN_TEST_DATA" doctor --json)
if ! grep -q '"found": "KVM' <<<"$doctor"; then
    printf 'suite.sh: KVM does not run stock kernels here\n' >&2
    exit 1
fi
# For one executable: one that hangs must not take the time of the others.
limit=1200
failed=()
for name in "$@"; do
    printf '==> %s on firecracker\n' "$name"
    # One at a time: a nested host has one core's worth of time.
    timeout --kill-after=10 "$limit" "$tests/$name" --test-threads=1
    code=$?
    [ "$code" != 124 ] || printf '==> %s: ended after %s seconds\n' "$name" "$limit"
    [ "$code" = 0 ] || failed+=("$name")
done
if [ ${#failed[@]} -gt 0 ]; then
    printf '==> failed on firecracker: %s\n' "${failed[*]}"
    exit 1
fi
printf '==> passed on firecracker: %s\n' "$*"
