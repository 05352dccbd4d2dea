"""Runs a command against a deployment of the small model: `python -m tests.clients.against_stack COMMAND …`.

The command finds its address in QWENSERVE_URL.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence

from tests.system.stack import TINY, running_stack, stack_config


async def main(command: Sequence[str]) -> int:
    """Returns the command's exit code."""
    with tempfile.TemporaryDirectory() as cache:
        async with running_stack(stack_config(worker__engine="llamacpp", cache_dir=cache), model_path=TINY) as stack:
            process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "QWENSERVE_URL": stack.url})
            return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
