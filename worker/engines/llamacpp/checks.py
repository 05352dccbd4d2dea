"""What a request must fulfil before llama.cpp sees it: its own answers to nonsense are silent or late."""

from __future__ import annotations

from qwenserve.worker.engine_interface import EngineInfo, EngineRefusal, EngineRequest
from qwenserve.worker.request_checks import check_request_fits


def check_request(request: EngineRequest, info: EngineInfo) -> None:
    """Raises EngineRefusal naming the field at fault."""
    check_request_fits(request, info)
    sampling = request.sampling
    if sampling.allowed_token_ids and sampling.repetition_penalty != 1:
        raise EngineRefusal(
            "allowed_token_ids cannot be had with a repetition_penalty in this engine; send repetition_penalty 1",
            param="allowed_token_ids",
        )
