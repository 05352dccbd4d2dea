"""`python -m tokenizer_svc`."""

import sys

from tokenizer_svc.main import main

sys.exit(main())
