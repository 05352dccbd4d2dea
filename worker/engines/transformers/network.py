"""The model in torch: forward passes over KV caches that are known by numbers, the same on every rank."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.transformers.settings import Settings
from qwenserve.worker.mpi.ranks import Ranks

_INSTALL = 'install it with pip install "qwenserve[transformers]"'


class Pass(NamedTuple):
    """One forward pass: `ids` behind the first `kept` ids of cache number `cache`, a new one where that is 0."""

    cache: int
    kept: int
    ids: Sequence[int]


class Network:
    """A loaded model. All methods block, and are called by one thread."""

    def __init__(self, directory: Path, settings: Settings, ranks: Ranks | None) -> None:
        """Loads it; with `ranks` each holds a part, and all of them must load at the same time. Raises EngineError."""
        try:
            import torch
            import transformers
        except ImportError as error:
            raise EngineError(f"the transformers engine needs torch and transformers ({error}); {_INSTALL}") from None
        self._torch = torch
        self._transformers = transformers
        self._caches: dict[int, Any] = {}
        self._ranks = ranks
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        cuda = torch.cuda.is_available() if settings.device == "auto" else settings.device == "cuda"
        if cuda and not torch.cuda.is_available():
            raise EngineError("worker.transformers.device: cuda, and torch finds no GPU; take cpu, or a build for CUDA")
        local = ranks.local_rank if ranks is not None else 0
        if cuda and local >= torch.cuda.device_count():
            raise EngineError(f"rank {local} of this machine has no GPU of its own; start fewer ranks here")
        self._device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self._device)
            torch.backends.cuda.matmul.allow_tf32 = False
        else:
            torch.set_num_threads(settings.threads)
        options: dict[str, Any] = {"dtype": getattr(torch, settings.dtype)}
        if ranks is not None:
            _meet(torch, ranks, cuda, self._device)
            options |= _tensor_parallel(transformers)
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(str(directory), **options)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise EngineError(f"{directory}: transformers does not load it: {error}") from error
        self._model = model.eval() if ranks is not None else model.to(self._device).eval()
        # The older name is about to go.
        names = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in names else "past_key_values"

    def run(self, one: Pass) -> NDArray[np.float64]:
        """Computes a pass; returns its logits, one row for each id. The cache then holds `kept` ids and these."""
        torch = self._torch
        cache = self._caches.get(one.cache)
        if cache is None:
            cache = self._caches[one.cache] = self._transformers.DynamicCache()
        elif (more := cache.get_seq_length() - one.kept) > 0:
            # What to take off; what to leave is no longer taken by every version.
            cache.crop(-more)
        with torch.inference_mode():
            ids = torch.tensor([list(one.ids)], device=self._device)
            # The cache grows in place.
            result = self._model(input_ids=ids, use_cache=True, **{self._cache_argument: cache})
            logits: NDArray[np.float64] = result.logits[0].to("cpu", torch.float64).numpy()
        return logits

    def drop(self, cache: int) -> None:
        """Forgets a cache; one that is not there is no error."""
        self._caches.pop(cache, None)

    def close(self) -> None:
        """Gives the model back."""
        self._caches.clear()
        self._model = None
        if self._ranks is not None and self._torch.distributed.is_initialized():
            self._torch.distributed.destroy_process_group()


def _meet(torch: Any, ranks: Ranks, cuda: bool, device: Any) -> None:
    """Makes the group that the model's parts compute in."""
    host, port = ranks.meeting_point
    os.environ.update(
        RANK=str(ranks.rank),
        WORLD_SIZE=str(ranks.size),
        LOCAL_RANK=str(ranks.local_rank),
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
    )
    if host.startswith("127."):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        torch.distributed.init_process_group("nccl" if cuda else "gloo", **({"device_id": device} if cuda else {}))
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"the ranks did not meet at {host}:{port}: {error}") from error


def _tensor_parallel(transformers: Any) -> Mapping[str, Any]:
    # The argument of its own goes in transformers 5.18; the other one came shortly before.
    configuration = getattr(getattr(transformers, "distributed", None), "DistributedConfig", None)
    if configuration is not None and "tp_plan" in getattr(configuration, "__dataclass_fields__", ()):
        return {"distributed_config": configuration(tp_plan="auto")}
    return {"tp_plan": "auto"}
