"""`python -m logitstore.cli` is the command line `logitstore`."""

from logitstore.cli import main

if __name__ == "__main__":
    main()
