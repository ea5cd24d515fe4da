"""The command line. `python -m genrank` is the command `genrank`."""

from genrank.cli.command_line import main

__all__ = ["main"]
