"""The console script `biofame`."""

import sys

from tenfold.cli import App, Training

PRETRAIN = Training(
    module="biofame.pretrain:PretrainModule",
    data="biofame.data:SignalData",
    about="Pre-train by masked autoencoding in the latent space.",
)

APP = App(
    name="biofame",
    package="biofame",
    about="Pre-train on biosignals once, then use any sensors, lengths and rates.",
    trainings={
        "fit": PRETRAIN,
        "pretrain": PRETRAIN,
        "finetune": Training(
            module="biofame.finetune:FinetuneModule",
            data="biofame.data:SignalData",
            links=(
                ("trainer.max_steps", "optim.total_steps"),
                ("head.context", "data.context"),
            ),
            about="Train a pre-trained network, or a random one, on labelled windows.",
        ),
        "pretrain-contrastive": Training(
            module="biofame.baselines.contrastive:ContrastiveModule",
            data="biofame.data:SignalData",
            about="Pre-train with the loss of TF-C or TS-TCC, for comparison.",
        ),
        "pretrain-patchtst": Training(
            module="biofame.baselines.patchtst:PatchTstPretrainModule",
            data="biofame.data:SignalData",
            about="Pre-train PatchTST, which masks the input, for comparison.",
        ),
        "finetune-patchtst": Training(
            module="biofame.baselines.patchtst:PatchTstFinetuneModule",
            data="biofame.data:SignalData",
            about="Train a PatchTST on labelled windows, for comparison.",
        ),
    },
    verbs={
        "prepare": "biofame.prepare:prepare",
        "prepare-sleepedf": "biofame.sleepedf:prepare_sleepedf",
        "inspect": "biofame.inspect_store:inspect",
        "demo-data": "biofame.demo_data:demo_data",
        "probe": "biofame.probe:probe",
        "knn": "biofame.probe:knn",
        "few-shot": "biofame.few_shot:few_shot",
        "mismatch": "biofame.mismatch:mismatch",
        "filters": "biofame.filter_report:filters",
        "embed": "biofame.embed:embed",
        "report": "biofame.report:report",
        "export": "biofame.export:export",
        "latency": "biofame.latency:latency",
        "reproduce": "biofame.reproduce:reproduce",
    },
)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(APP.main())
