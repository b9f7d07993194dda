"""A model's head against the classes of its data."""

import lightning


def check_classes(module: lightning.LightningModule, classes: int) -> None:
    """Compare a head with the classes of the trainer's data.

    Raises:
        ValueError: They differ in number.
    """
    found = getattr(getattr(module.trainer, "datamodule", None), "num_classes", None)
    if found is not None and found != classes:
        raise ValueError(
            f"model.classes is {classes}, the data has {found} classes; "
            f"set model.classes to {found}"
        )
