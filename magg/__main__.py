"""``python -m magg`` is the command ``magg``."""

import sys

from magg.cli import main

if __name__ == "__main__":
    sys.exit(main())
