"""The command line: one file per command, thin shells over the runner."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `lucidcam`; an error of ours, or of what was typed, becomes one line and exit code 2."""
    from typer import Abort

    from lucidcam.cli._usage import ClickException, print_error, usage_error
    from lucidcam.cli.program import app
    from lucidcam.errors import LucidcamError

    try:
        code = app(prog_name="lucidcam", standalone_mode=False)
    except LucidcamError as error:
        print_error(str(error))
        sys.exit(2)
    except ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help was printed
            sys.exit(2)
        print_error(usage_error(error))
        sys.exit(2)
    except Abort:
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    sys.exit(code if isinstance(code, int) else 0)
