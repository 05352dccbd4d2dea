"""`python -m qwenserve.router`."""

import sys

from qwenserve.router.main import main

sys.exit(main())
