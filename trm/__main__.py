"""`python -m trm` is the command `trm`."""

import sys

from trm.cli import main

if __name__ == "__main__":
    sys.exit(main())
