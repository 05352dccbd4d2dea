"""`python -m qwenserve.bench`."""

import sys

from qwenserve.bench.command import main

sys.exit(main())
