"""`--dry_run`: build everything, train one batch, and show what it takes."""

from collections.abc import Iterable
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from tenfold.callbacks.progress import peak_memory_gib
from tenfold.cli.training import TrainingCLI


def dry_run(cli: TrainingCLI) -> int:
    """Run one training and one validation batch, print parameters and memory, make no run."""
    cli.build()
    with TemporaryDirectory() as folder:  # for what the data would note in the run's folder
        trainer = cli.make_trainer(
            fast_dev_run=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(cli.model, datamodule=cli.datamodule)
    console = Console()
    console.print(_parameter_table(cli.model))
    console.print(_memory_table(cli.model, trainer.optimizers, trainer.strategy.root_device))
    console.print(f"one batch of {cli.app.name} {cli.verb} ran; no run folder was made")
    return 0


def _parameter_table(model: torch.nn.Module) -> Table:
    table = Table("part", "parameters", "trained", title="parameters")
    parts = _parts(model)
    if len(parts) == 1:
        (only,) = parts.values()
        parts = _parts(only) or parts
    for name, part in [*parts.items(), ("all", model)]:
        counts = [(p.numel(), p.requires_grad) for p in part.parameters()]
        trained = sum(number for number, trains in counts if trains)
        table.add_row(name, f"{sum(number for number, _ in counts):,}", f"{trained:,}")
    return table


def _parts(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return the children that have parameters (metrics have none)."""
    return {name: part for name, part in model.named_children() if list(part.parameters())}


def _memory_table(
    model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], device: torch.device
) -> Table:
    states = [value for o in optimizers for state in o.state.values() for value in state.values()]
    trained = [p for p in model.parameters() if p.requires_grad]
    table = Table("what", "MiB", title="memory")
    table.add_row("weights and buffers", _mebibytes([*model.parameters(), *model.buffers()]))
    table.add_row("gradients", _mebibytes(trained))
    table.add_row("optimiser state", _mebibytes(s for s in states if isinstance(s, torch.Tensor)))
    where = "accelerator" if device.type == "cuda" else "process"
    table.add_row(f"peak of the {where}", f"{peak_memory_gib(device) * 1024:,.1f}")
    return table


def _mebibytes(tensors: Iterable[torch.Tensor]) -> str:
    return f"{sum(t.numel() * t.element_size() for t in tensors) / 2**20:,.1f}"
