"""`python -m cuista` is the command line."""

from cuista.cli import main

main()
