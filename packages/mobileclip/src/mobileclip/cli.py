"""The console script `mobileclip`."""

import sys

from tenfold.cli import App, Training

APP = App(
    name="mobileclip",
    package="mobileclip",
    about="Train small CLIPs on stored teacher knowledge, fold them and ship them.",
    trainings={
        "fit": Training(
            module="mobileclip.module:MobileCLIPModule",
            data="mobileclip.data:ReinforcedData",
            about="Train on pairs alone, beside live teachers, or on stored embeddings.",
            links=(
                ("trainer.max_steps", "optim.total_steps"),
                ("trainer.max_steps", "data.total_steps"),
                ("model.name", "data.model"),
                ("model.image_size", "data.image_size"),
                ("loss.mode", "data.mode"),
                ("loss.captions", "data.captions"),
                ("loss.mix_ratio", "data.mix_ratio"),
            ),
        ),
    },
    verbs={
        "generate-captions": "mobileclip.generate.captions:generate_captions",
        "generate-embeddings": "mobileclip.generate.embeddings:generate_embeddings",
        "join": "mobileclip.join:join",
        "verify": "mobileclip.verify:verify",
        "stats": "mobileclip.stats:stats",
        "convert": "mobileclip.convert:convert",
        "evaluate": "mobileclip.evaluate:evaluate",
        "aggregate": "mobileclip.aggregate:aggregate",
        "classify": "mobileclip.classify:classify",
        "reparam": "mobileclip.reparam:reparam",
        "export": "mobileclip.export:export",
        "latency": "mobileclip.latency:latency",
        "demo-data": "mobileclip.demo_data:demo_data",
        "reproduce": "mobileclip.reproduce:reproduce",
    },
)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(APP.main())
