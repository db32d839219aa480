"""`python -m azaion_operator`."""

import sys

from azaion_operator.cli import main

sys.exit(main())
