"""`python -m cuista` is the command line."""

import sys

from cuista.cli import main

sys.argv[0] = "cuista"  # files record the command that made them
main()
