"""`python -m backfill`: the command line, also where its script is not on the PATH."""

from backfill.cli import main

if __name__ == "__main__":
    main()
