"""`python -m qwenserve.cli`: the same as `qwenserve`."""

import sys

from qwenserve.cli.main import main

sys.exit(main())
