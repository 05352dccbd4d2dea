"""`python -m qwenserve.tokenizer_svc`."""

import sys

from qwenserve.tokenizer_svc.main import main

sys.exit(main())
