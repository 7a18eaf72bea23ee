"""`python -m distill.export`."""

import sys

from distill.export.convert import main

sys.exit(main())
