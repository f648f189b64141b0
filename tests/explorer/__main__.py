"""The explorer on the command line; see `explore`."""

import sys

from .explore import main

if __name__ == "__main__":
    sys.exit(main())
