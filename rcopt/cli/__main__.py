"""`python -m rcopt.cli` is the command `rcopt`."""

import sys

from rcopt.cli.main import main

sys.exit(main())
