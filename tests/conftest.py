"""For all tests."""

from __future__ import annotations

import signal
import threading

# What a shell starts in the background ignores ctrl-C, and so would every program that a test starts and then
# interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
