"""The console script `fastfill`."""

import sys

from tenfold.cli import App, Training

APP = App(
    name="fastfill",
    package="fastfill",
    about="Update an embedding model under a live gallery, the best items first.",
    trainings={
        "fit": Training(
            module="fastfill.transform_module:TransformModule",
            data="fastfill.pair_data:PairData",
            about="Train the map from stored old embeddings to the new space.",
        ),
        "fit-backbone": Training(
            module="fastfill.backbone_module:BackboneModule",
            data="fastfill.image_data:ImageData",
            about="Train an embedding model, alone or compatible with an old one (BCT, RACT).",
        ),
    },
    verbs={
        "cache-features": "fastfill.cache:cache_features",
        "fit-closed-form": "fastfill.closed_form_verb:fit_closed_form",
        "embed": "fastfill.embed:embed",
        "curve": "fastfill.curve_verb:curve",
        "calibrate": "fastfill.calibrate_verb:calibrate",
        "fairness": "fastfill.fairness_verb:fairness",
        "init-gallery": "fastfill.gallery.init:init_gallery",
        "plan": "fastfill.plan:plan",
        "backfill": "fastfill.backfill:backfill",
        "query": "fastfill.query:query",
        "serve": "fastfill.serve.run:serve",
        "status": "fastfill.gallery.verbs:status",
        "pause": "fastfill.gallery.verbs:pause",
        "resume": "fastfill.gallery.verbs:resume",
        "rollback": "fastfill.gallery.verbs:rollback",
        "finalise": "fastfill.gallery.verbs:finalise",
        "add-items": "fastfill.gallery.verbs:add_items",
        "delete-items": "fastfill.gallery.verbs:delete_items",
        "demo-data": "fastfill.demo_data:demo_data",
        "reproduce": "fastfill.reproduce:reproduce",
    },
)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(APP.main())
