"""Settings of gRPC's core. Import this before `grpc`: the core reads them from the environment when it is loaded.

Since it has an event engine of its own, the core hands what a socket brings from thread to thread before Python hears
of it. Without it Python's own poller reads the sockets: half the context switches, and a third less CPU time a call
(docs/performance.md). A choice of the user's in the environment stays.
"""

from __future__ import annotations

import os
from importlib.metadata import version

# The releases whose experiments have these names; a core that knows a name no more complains on standard error.
_SINCE, _UNTIL = (1, 80), (1, 86)
_EXPERIMENTS = "-event_engine_client,-event_engine_listener"

if _SINCE <= tuple(map(int, version("grpcio").split(".")[:2])) < _UNTIL:
    os.environ.setdefault("GRPC_EXPERIMENTS", _EXPERIMENTS)
