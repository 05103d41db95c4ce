"""`python -m tensorc` is the command line too."""

import sys

from tensorc.cli import main

sys.exit(main())
