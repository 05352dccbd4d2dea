"""`python -m cli`: the same as `qwenserve`."""

import sys

from cli.main import main

sys.exit(main())
