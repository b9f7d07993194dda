"""A user's mistake is one line and exit code 2; everything else keeps its traceback."""

import logging
import os
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable

from tenfold.jobs import JobError

log = logging.getLogger(__name__)

USER_ERRORS = (ArgumentError, ValueError, OSError, ImportError, JobError)
# Named, because importing Lightning for its error would cost what `--help` saves.
USER_ERROR_NAMES = ("MisconfigurationException",)


def report_errors(call: Callable[[], int]) -> int:
    """Return what `call` returns, or report its mistake on stderr and return 2.

    With `TENFOLD_DEBUG=1` in the environment the traceback is printed too. Errors that no user can
    mend (an assertion, a failing kernel) pass through.
    """
    try:
        return call()
    except SystemExit as left:  # argparse's way out of --help, and other libraries' ways out
        if isinstance(left.code, str):
            sys.stderr.write(f"error: {left.code}\n")
            return 1
        return left.code or 0
    except KeyboardInterrupt as interrupt:
        sys.stderr.write("interrupted\n")
        return 128 + next(iter(interrupt.args), signal.SIGINT)  # jobs say which signal it was
    except Exception as error:
        if not (isinstance(error, USER_ERRORS) or type(error).__name__ in USER_ERROR_NAMES):
            raise
        log.debug("the error below came from here", exc_info=True)
        if os.environ.get("TENFOLD_DEBUG") == "1":
            raise
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 2


def one_line(error: BaseException) -> str:
    """Fold an error's message into one line; of a loader worker's, without its traceback."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    text = str(error)
    if text.startswith("Caught ") and " in DataLoader worker process " in text:
        # torch puts the worker's traceback into the message; its last line begins with the name.
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(text.split()) or type(error).__name__
