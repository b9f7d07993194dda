"""The toy's command line."""

import sys

from tenfold.cli import App, Training

APP = App(
    name="toy-member",
    package="toy_member",
    about="Fits a line.",
    trainings={
        "fit": Training(module="toy_member.module:ToyModule", data="toy_member.data:ToyData"),
        "pretrain": Training(
            module="toy_member.module:ToyModule",
            data="toy_member.data:ToyData",
            about="Train the same line under another name.",
        ),
    },
    verbs={"greet": "toy_member.verbs:greet"},
)

if __name__ == "__main__":
    sys.exit(APP.main())
