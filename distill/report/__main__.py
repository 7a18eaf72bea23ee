"""`python -m distill.report`."""

import sys

from distill.report.page import main

sys.exit(main())
