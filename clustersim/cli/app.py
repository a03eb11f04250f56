"""``clustersim``: the commands. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from clustersim.cli import console
from clustersim.cli.calibrate import calibrate_command
from clustersim.cli.catalogue import list_command, schema_command
from clustersim.cli.explain import app as explain_app
from clustersim.cli.run import run_command
from clustersim.cli.show import show_command
from clustersim.cli.validate import validate_command

app = typer.Typer(
    name="clustersim",
    help="What a GPU cluster would do with a training run or a serving load: speed, memory, waits.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("run")(run_command)
app.command("validate")(validate_command)
app.command("calibrate")(calibrate_command)
app.command("show")(show_command)
app.add_typer(explain_app, name="explain")
app.command("list")(list_command)
app.command("schema")(schema_command)


def _print_version(wanted: bool) -> None:
    """Answer ``--version``, before anything else is looked at."""
    if wanted:
        version_command()
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command("version")
def version_command(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the version."""
    from clustersim import __version__

    if json:
        console.print_json({"version": __version__})
    else:
        typer.echo(f"clustersim {__version__}")
