#!/usr/bin/env bash
# Runs the Firecracker driver's conformance suite where Firecracker can run: here, if this host's KVM runs stock kernels,
# else in a nested host. Called by `./x test-firecracker`, which has built everything.
#
#   conformance.sh [NAME...]        these tests; without names, those that suite.sh lists
#   conformance.sh -- COMMAND...    a command in place of the tests, in the same surroundings
#
# OMNIRUN_BIN, OMNIRUN_TEST_DATA, FIRECRACKER_BIN and JAILER_BIN name what is tested, TESTS the test executables as
# lines of `NAME PATH`, NESTED the folder for the nested host's parts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf '==> %s\n' "$*" >&2; }

mkdir -p "$NESTED"
stage=$(mktemp -d "$NESTED/stage.XXXXXX")
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/bin" "$stage/tests"
cp "$here/suite.sh" "$stage/"
cp "$OMNIRUN_BIN" "$stage/bin/omnirun"
cp "$FIRECRACKER_BIN" "$stage/bin/firecracker"
cp "$JAILER_BIN" "$stage/bin/jailer"
while read -r name path; do
    # Without debug information they are a fifth as large.
    strip --strip-debug -o "$stage/tests/$name" "$path"
done <<<"$TESTS"

# What the suite finds where it runs.
root=$stage data=$OMNIRUN_TEST_DATA run=()
doctor=$("$OMNIRUN_BIN" --data-dir "$OMNIRUN_TEST_DATA" doctor --json || true)
accelerator=$(grep -A 3 '"name": "accelerator"' <<<"$doctor" | sed -n 's/^ *"found": "\(.*\)",\{0,1\}$/\1/p')
case $accelerator in
    KVM*) say "KVM runs stock kernels here: Firecracker runs on this host" ;;
    *)
        say "Firecracker runs in a nested host, since here: $accelerator"
        mkdir "$stage/data"
        cp -r "$OMNIRUN_TEST_DATA/images" "$stage/data/images"
        root=/nested data=/nested/data run=("$here/run.sh" "$NESTED" "$stage")
        ;;
esac

surroundings=(OMNIRUN_DRIVER=firecracker OMNIRUN_BIN="$root/bin/omnirun" OMNIRUN_TEST_DATA="$data" OMNIRUN_DATA_DIR="$data"
    FIRECRACKER_BIN="$root/bin/firecracker" JAILER_BIN="$root/bin/jailer")
if [ "${1:-}" = -- ]; then
    shift
    command=("$@")
else
    command=(bash "$root/suite.sh" "$root/tests" "$@")
fi
"${run[@]}" env PATH="$root/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "${surroundings[@]}" \
    "${command[@]}"
