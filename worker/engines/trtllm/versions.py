"""Which versions of TensorRT-LLM are taken, and what one has. Told by names and signatures: release candidates carry
the numbers of versions that they are not yet. Pure.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from qwenserve.worker.engine_interface import EngineError

_BROKEN = "1.2.0"
_REMEDY = "install tensorrt_llm 1.2.1"


class Has(NamedTuple):
    """What the installed version has."""

    call: frozenset[str]  # arguments of LLM.generate_async
    sampling: frozenset[str]  # of SamplingParams
    arguments: frozenset[str]  # of LLM

    @property
    def cache_salt(self) -> bool:
        return "cache_salt" in self.call

    @property
    def traces(self) -> bool:
        return "trace_headers" in self.call

    @property
    def priority(self) -> bool:
        return "priority" in self.call


def check_version(version: str, has: Has) -> None:
    """Raises EngineError for a version that would answer wrongly, or is not known."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if not numbers:
        raise EngineError(f"tensorrt_llm calls itself {version!r}, which is no version; {_REMEDY}")
    if re.fullmatch(r"1\.2\.0([.+].*)?", version):
        raise EngineError(
            f"tensorrt_llm {_BROKEN} mixes up KV blocks where prompts share a prefix and are read in parts; {_REMEDY}"
        )
    if not (1, 0) <= (int(numbers[1]), int(numbers[2])) <= (1, 4):
        raise EngineError(f"tensorrt_llm {version} is not one of 1.0 to 1.4; {_REMEDY}")
    needed = {"inputs", "sampling_params", "streaming"} - has.call | {
        "end_id",
        "detokenize",
        "stop_token_ids",
    } - has.sampling
    if needed:
        raise EngineError(f"tensorrt_llm {version} has no {', '.join(sorted(needed))}; {_REMEDY}")
