"""`python -m distill.evaluate`."""

import sys

from distill.evaluate.measure import main

sys.exit(main())
