"""`python -m optsweep_tui` is the command `optsweep`."""

import sys

from optsweep_tui.cli import main

sys.exit(main())
