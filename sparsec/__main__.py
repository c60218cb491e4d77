"""``python -m sparsec``."""

import sys

from sparsec.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
