"""Run the command by ``python -m footfall.cli``."""

import sys

from footfall.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
