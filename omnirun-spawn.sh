#!/bin/sh
# For Anthropic's CLI: ant beta:worker poll --on-work ./omnirun-spawn.sh
# Serves the session that ant has claimed, its tool calls in microVMs. Flags of `omnirun spawn` may be set by its
# variables (OMNIRUN_ISOLATION, OMNIRUN_TEMPLATE, OMNIRUN_SEED, OMNIRUN_DATA_DIR), or added below.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
for omnirun in "${OMNIRUN_BIN:-}" "$here/omnirun" "$here/target/release/omnirun" "$(command -v omnirun)"; do
    # exec: ant signals this process alone, so the one that serves must be it.
    [ -f "$omnirun" ] && [ -x "$omnirun" ] && exec "$omnirun" spawn "$@"
done
echo "omnirun-spawn.sh: no omnirun beside this script, in target/release (./x build makes it) or on PATH" >&2
exit 127
