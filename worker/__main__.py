"""`python -m qwenserve.worker`."""

import sys

from qwenserve.worker.main import main

sys.exit(main())
