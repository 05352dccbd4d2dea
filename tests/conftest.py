"""For all tests."""

from __future__ import annotations

import importlib.util
import signal
import threading

# What a shell starts in the background ignores ctrl-C, and so would every program that a test starts and then
# interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about the code. Client libraries have an environment of
# their own, without hypothesis.
if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import settings

    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")
