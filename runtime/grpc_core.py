"""Settings of gRPC's core. Import this before `grpc`: the core reads them from the environment when it is loaded.

Since it has an event engine of its own, the core hands what a socket brings from thread to thread before Python hears
of it. Without it Python's own poller reads the sockets: half the context switches, and a third less CPU time a call
(docs/performance.md). A choice of the user's in the environment stays.
"""

from __future__ import annotations

import os
from importlib.metadata import version

# The releases whose experiments have these names (a core that knows a name no more complains on standard error), and
# whose thread and pair of sockets are as `runtime.grpc_wakeups` takes them to be.
_SINCE, NOT_LOOKED_AT = (1, 80), (1, 86)
_EXPERIMENTS = "-event_engine_client,-event_engine_listener"

# Whether this is a release that somebody has looked at; in others nothing rests on grpcio's inside.
LOOKED_AT = _SINCE <= tuple(map(int, version("grpcio").split(".")[:2])) < NOT_LOOKED_AT

if LOOKED_AT:
    os.environ.setdefault("GRPC_EXPERIMENTS", _EXPERIMENTS)
