"""A user's mistake is one line and exit code 2; everything else keeps its traceback."""

import logging
import os
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable

from tenfold.jobs import JobError

log = logging.getLogger(__name__)

USER_ERRORS = (
    ArgumentError,
    ValueError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    ModuleNotFoundError,
    JobError,
)


def report_errors(call: Callable[[], int]) -> int:
    """Return what `call` returns, or report its mistake on stderr and return 2.

    With `TENFOLD_DEBUG=1` in the environment the traceback is printed too. Errors that no user can
    mend (an assertion, a failing kernel) pass through.
    """
    try:
        return call()
    except USER_ERRORS as error:
        log.debug("the error below came from here", exc_info=True)
        if os.environ.get("TENFOLD_DEBUG") == "1":
            raise
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 2
    except SystemExit as exit_request:  # argparse's own way out of --help and --print_config
        return exit_request.code if isinstance(exit_request.code, int) else 0
    except KeyboardInterrupt as interrupt:
        signum = next(iter(interrupt.args), signal.SIGINT)  # jobs say which signal it was
        sys.stderr.write("interrupted; the same command goes on\n")
        return 128 + signum


def one_line(error: BaseException) -> str:
    """Fold an error's message into one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
