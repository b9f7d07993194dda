"""The console script `dataset-reinforcement`."""

import sys

from tenfold.cli import App, Training

STEPS = ("trainer.max_steps", "optim.total_steps")
CLASSIFIER_LINKS = (STEPS, ("trainer.max_steps", "data.total_steps"), ("loss.mode", "data.mode"))

APP = App(
    name="dataset-reinforcement",
    package="dataset_reinforcement",
    about="Pay the teacher once a data set: stored augmentations and labels for every later run.",
    trainings={
        "fit": Training(
            module="dataset_reinforcement.module:ReinforcementModule",
            data="dataset_reinforcement.data:ReinforcementData",
            about="Train a classifier on stored, taught or hard labels.",
            links=CLASSIFIER_LINKS,
        ),
        "finetune": Training(
            module="dataset_reinforcement.finetune:FinetuneModule",
            data="dataset_reinforcement.data:ReinforcementData",
            about="Train a classifier from the body of model.init_from, with a new head.",
            links=CLASSIFIER_LINKS,
        ),
        "detection": Training(
            module="dataset_reinforcement.detection:DetectionModule",
            data="dataset_reinforcement.detection_data:DetectionData",
            about="Fine-tune a trained backbone as Mask R-CNN.",
            links=(STEPS,),
        ),
        "segmentation": Training(
            module="dataset_reinforcement.segmentation:SegmentationModule",
            data="dataset_reinforcement.segmentation_data:SegmentationData",
            about="Fine-tune a trained backbone as DeepLabv3.",
            links=(STEPS,),
        ),
    },
    verbs={
        "generate": "dataset_reinforcement.generate:generate",
        "verify": "dataset_reinforcement.verify:verify",
        "info": "dataset_reinforcement.info:info",
        "inspect": "dataset_reinforcement.inspect_store:inspect",
        "merge": "dataset_reinforcement.store.merge:merge",
        "pack": "dataset_reinforcement.streaming:pack",
        "import-apple": "dataset_reinforcement.apple.import_apple:import_apple",
        "export-apple": "dataset_reinforcement.apple.export_apple:export_apple",
        "evaluate": "dataset_reinforcement.evaluate:evaluate",
        "teacher-study": "dataset_reinforcement.teacher_study:teacher_study",
        "demo-store": "dataset_reinforcement.demo_store:demo_store",
        "reproduce": "dataset_reinforcement.reproduce:reproduce",
    },
)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(APP.main())
