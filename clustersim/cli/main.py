"""The ``clustersim`` program: its entry, and the exit codes of how it ends.

Nothing is imported at the top that takes time, so that Ctrl-C finds `main` already listening.
"""

from __future__ import annotations

import sys

from clustersim.cli.signals import BROKEN_PIPE, INTERRUPTED, TERMINATED, is_ending, listen

BAD_OUTPUT = 2


def main() -> None:
    """Entry point of the ``clustersim`` program."""
    output = sys.stdout
    try:
        listen()
        from clustersim.cli.app import app

        app(prog_name="clustersim")
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SystemExit:
        if is_ending():  # whatever a library made of it
            sys.exit(TERMINATED)
        if sys.stdout is not output:  # typer replaces it where help finds no reader
            sys.exit(BROKEN_PIPE)
        raise
    except OSError as error:  # help that cannot be written; commands answer for themselves
        from clustersim.cli.console import discard_output

        print(f"output: {error.strerror or error}", file=sys.stderr)
        discard_output()
        sys.exit(BAD_OUTPUT)
