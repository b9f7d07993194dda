"""The command line of every member: Lightning's verbs, the paper's verbs, one way of failing.

Importing this package costs no torch: `--help`, `recipes` and usage errors answer at once.
"""

from tenfold.cli.app import App, Training

__all__ = ["App", "Training"]
