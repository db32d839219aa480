"""`python -m azaion_operator`."""

import sys

from azaion_operator.cli import main

if __name__ == "__main__":
    sys.exit(main())
