"""`python -m mithridate` is the command line."""

import sys

from mithridate.cli.main import main

sys.exit(main())
