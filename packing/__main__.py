"""`python -m packing`."""

import sys

from packing.cli import main

if __name__ == "__main__":
    sys.exit(main())
