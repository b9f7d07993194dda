"""The console script `paper-template`."""

import sys

from tenfold.cli import App, Training

APP = App(
    name="paper-template",
    package="paper_template",
    about="A classifier of handwritten digits.",
    trainings={
        "fit": Training(
            module="paper_template.module:PaperTemplateModule",
            data="paper_template.data:PaperTemplateData",
            about="Train a classifier.",
        )
    },
    verbs={"reproduce": "paper_template.reproduce:reproduce"},
)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(APP.main())
