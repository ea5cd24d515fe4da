"""`python -m genrank`: the command `genrank`."""

import sys

from genrank.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main())
