"""The console script `mobileclip`."""

import sys

from tenfold.cli import App, Training

APP = App(
    name="mobileclip",
    package="mobileclip",
    about="A classifier of handwritten digits.",
    trainings={
        "fit": Training(
            module="mobileclip.module:MobileclipModule",
            data="mobileclip.data:MobileclipData",
            about="Train a classifier.",
        )
    },
    verbs={"reproduce": "mobileclip.reproduce:reproduce"},
)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(APP.main())
