"""Passes on every rank: rank 0 says what to compute, all compute it, and rank 0 uses the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.transformers.network import Network, Pass
from qwenserve.worker.mpi.link import Hub, RankLost, Spoke


class LeadingNetwork:
    """Rank 0's network, with the other ranks behind it. The same methods; each may raise EngineError."""

    def __init__(self, network: Network, hub: Hub) -> None:
        """Waits until all ranks have loaded theirs."""
        self._network = network
        self._hub = hub
        self.version = network.version
        try:
            hub.replies()
        except RankLost as lost:
            raise EngineError(str(lost)) from None

    def run(self, one: Pass) -> NDArray[Any]:
        """Computes a pass on all ranks."""
        self._tell({"pass": [one.cache, one.kept, list(one.ids)]})
        return self._network.run(one)

    def drop(self, cache: int) -> None:
        """Forgets a cache on all ranks."""
        self._tell({"drop": cache})
        self._network.drop(cache)

    def close(self) -> None:
        """Gives the model back on all ranks, where they are all there."""
        if not self._hub.lost:
            self._tell({"close": True})
            self._network.close()

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._hub.tell(message)
        except RankLost as lost:
            raise EngineError(str(lost)) from None


def follow_passes(network: Network, spoke: Spoke) -> None:
    """Computes what rank 0 says, until it says no more."""
    spoke.answer({"loaded": True})
    while (message := spoke.listen()) is not None:
        if "pass" in message:
            cache, kept, ids = message["pass"]
            _run(network, cache, kept, ids)
        elif "drop" in message:
            network.drop(message["drop"])
        else:
            network.close()


def _run(network: Network, cache: int, kept: int, ids: Sequence[int]) -> None:
    try:
        network.run(Pass(cache, kept, ids))
    except RuntimeError as error:
        raise EngineError(f"a pass: {error}") from error
