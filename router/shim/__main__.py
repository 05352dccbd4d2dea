"""`python -m qwenserve.router.shim`."""

import sys

from qwenserve.router.shim.main import main

sys.exit(main())
