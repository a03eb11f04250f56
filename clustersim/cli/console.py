"""What every command shares: consoles, progress, JSON, and how an error becomes an exit code.

Exit codes: 0 done; 1 the answer is no; 2 the input is wrong; 3 our bug; as for any program, 130
after Ctrl-C, 141 where the reader of the output went away, 143 after SIGTERM.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import typer

from clustersim.cli.signals import BROKEN_PIPE, INTERRUPTED, is_ending

if TYPE_CHECKING:
    from rich.console import Console

NO, BAD_INPUT, BUG = 1, 2, 3
NARROW, WIDE = 80, 100
SILENT_S = 1.0  # shorter work shows no progress

DEBUG = "CLUSTERSIM_DEBUG"
ISSUES = "please report it with the command and the scenario"


def output() -> Console:
    """Standard output, 80 to 100 columns wide; plain text where it is not a terminal."""
    from rich.console import Console

    class Output(Console):
        """A console that leaves a broken pipe to `answering`."""

        def on_broken_pipe(self) -> None:
            """Raise again what was caught; without this, rich exits with 1."""
            raise BrokenPipeError

    console = Output()
    console.width = min(max(console.width, NARROW), WIDE) if console.is_terminal else WIDE
    return console


def messages() -> Console:
    """Standard error."""
    from rich.console import Console

    return Console(stderr=True)


def say(text: str) -> None:
    """Print one message on stderr; where nobody can read it, or after SIGTERM, nothing.

    Parameters
    ----------
    text : str
        Printed as it is: markup in it is not read.
    """
    if is_ending():
        return
    with suppress(OSError):
        typer.echo(text, err=True)


def print_json(document: Any) -> None:
    """Print one document on stdout.

    Parameters
    ----------
    document : Any
        Plain values and NumPy arrays; keys need not be text. What is not finite becomes null.
    """
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    typer.echo(orjson.dumps(document, option=options).decode())


def warn(warnings: Iterable[object]) -> None:
    """Print warnings on stderr, a message each.

    Parameters
    ----------
    warnings : iterable
        Of problems or texts; a problem shows its place and fix.
    """
    for warning in warnings:
        say(f"warning: {warning}")


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say on stderr what takes its time: a spinner, or one line after a second.

    Parameters
    ----------
    what : str
        The work in progress, as in "simulating NAME". The line stands only where stderr is no
        terminal, and only if the work is still going on after `SILENT_S`.
    """
    if sys.stderr.isatty():
        with messages().status(what):
            yield
        return
    timer = threading.Timer(SILENT_S, say, (f"{what} ...",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def answering() -> Iterator[None]:
    """Turn errors into a message on stderr and an exit code; never a traceback by default."""
    from clustersim.errors import CapacityError, ClusterSimError, SimulationError

    try:
        yield
        sys.stdout.flush()
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        say("stopped by Ctrl-C")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        discard_output()
        raise typer.Exit(BROKEN_PIPE) from None
    except SimulationError as error:
        _give_up(error)
    except CapacityError as error:
        say(str(error))
        raise typer.Exit(NO) from None
    except ClusterSimError as error:
        say(str(error))
        raise typer.Exit(BAD_INPUT) from None
    except OSError as error:
        _refuse_file(error)
    except Exception as error:  # the one place where everything ends
        _give_up(error)


def _refuse_file(error: OSError) -> None:
    """Say which file cannot be read or written; output that has no name is called so."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        say(f"{error.filename}: {reason}")
    else:
        say(f"output: {reason}\n  fix: make room there, or write to another place")
        discard_output()
    raise typer.Exit(BAD_INPUT) from None


def discard_output() -> None:
    """Send what is still to be written nowhere, so that the end of the program cannot fail."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _give_up(error: Exception) -> None:
    """Report our own bug in a line or two; the traceback only where it is asked for."""
    if os.environ.get(DEBUG) == "1":
        import traceback

        say("".join(traceback.format_exception(error)).rstrip())
    text = " ".join(str(error).split()) or "no message"
    say(f"bug in clustersim: {type(error).__name__}: {text}")
    say(f"  {ISSUES}; {DEBUG}=1 shows the traceback")
    raise typer.Exit(BUG) from None
