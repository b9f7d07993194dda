"""The console script `dataset-decomposition`."""

import sys

from tenfold.cli import App, Training

APP = App(
    name="dataset-decomposition",
    package="dataset_decomposition",
    about="Variable-sequence-length language-model training with a length curriculum.",
    trainings={
        "fit": Training(
            module="dataset_decomposition.module:DecompositionModule",
            data="dataset_decomposition.data:DecompositionData",
            links=(
                ("trainer.max_steps", "optim.total_steps"),
                ("trainer.max_steps", "data.total_steps"),
            ),
            about="Train a language model on a prepared data set.",
        )
    },
    verbs={
        "prepare": "dataset_decomposition.prepare:prepare",
        "import-openlm": "dataset_decomposition.import_openlm:import_openlm",
        "stats": "dataset_decomposition.stats:stats",
        "verify": "dataset_decomposition.verify:verify",
        "plan": "dataset_decomposition.plan:plan",
        "cost": "dataset_decomposition.predict_cost:cost",
        "bench": "dataset_decomposition.bench:bench",
        "evaluate": "dataset_decomposition.evaluate:evaluate",
        "export": "dataset_decomposition.export:export",
        "reproduce": "dataset_decomposition.reproduce:reproduce",
    },
)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(APP.main())
