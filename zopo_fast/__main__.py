"""Command line as a module: `python -m zopo_fast`."""

from zopo_fast.cli import main

if __name__ == "__main__":
    main()
