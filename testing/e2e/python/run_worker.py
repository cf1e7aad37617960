"""Runs the official SDK's EnvironmentWorker, unmodified, until its input closes.

Base URL, environment and key come from the environment variables that the SDK and `ant` use. The one argument is the
working directory; --max-idle and --log are the only other settings. `--env-key-only` hides nothing: which credential is
used follows from the work item.
"""

import argparse
import asyncio
import logging
import os
import sys

from anthropic import AsyncAnthropic

parser = argparse.ArgumentParser()
parser.add_argument("workdir")
parser.add_argument("--max-idle", type=float, default=1.0)
parser.add_argument("--worker-id")
args = parser.parse_args()
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
logging.getLogger("httpx").setLevel(logging.WARNING)


async def main() -> None:
    # No credential of the client's own: the worker's helpers bring theirs.
    client = AsyncAnthropic(base_url=os.environ["ANTHROPIC_BASE_URL"])
    worker = client.beta.environments.work.worker(
        environment_id=os.environ["ANTHROPIC_ENVIRONMENT_ID"],
        environment_key=os.environ["ANTHROPIC_ENVIRONMENT_KEY"],
        workdir=args.workdir,
        max_idle=args.max_idle,
        worker_id=args.worker_id,
    )
    run = asyncio.create_task(worker.run())
    closed = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    done, _ = await asyncio.wait({run, asyncio.ensure_future(closed)}, return_when=asyncio.FIRST_COMPLETED)
    if run in done:
        # run() ends by itself only with an error; the test reads its type.
        print(f"worker ended: {run.exception()!r}", flush=True)
        os._exit(3)
    run.cancel()
    await asyncio.wait({run})
    os._exit(0)


asyncio.run(main())
