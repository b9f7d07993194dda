"""Keep third-party adverts and advice that does not apply out of the output."""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager


def silence_adverts() -> None:
    """Drop Lightning's tips for its own services and its worker-count advice."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advert)
    # Lightning adds handlers of its own; with ours on the root logger each line would come twice.
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
    connector = "lightning.pytorch.trainer.connectors.checkpoint_connector"
    logging.getLogger(connector).addFilter(_is_no_advert)  # our CheckpointIO is always safe
    for advice in (
        "does not have many workers",
        "IterableDataset` has `__len__` defined",
        "LeafSpec",  # torch's deprecation of what Lightning calls
        "callbacks used to create the checkpoint need to be provided",  # none matters to evaluation
    ):
        warnings.filterwarnings("ignore", message=f".*{advice}")


@contextmanager
def quiet_loggers(*names: str) -> Generator[None]:
    """Hold back what loggers say below a warning."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_no_advert(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "Tip: For seamless" not in text and "`weights_only` was not set" not in text
