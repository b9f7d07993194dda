"""What tests of several members need: real gloo ranks, exact comparison of runs, tiny shards.

Not here: fixtures (each member's conftest) and the oracles of one module (its own test file).
"""

import importlib.util
import itertools
import multiprocessing
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

from tenfold import checkpoints
from tenfold.cli import App
from tenfold.shards import ShardIndex, write_index, write_shard


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 120.0
) -> list[Any]:
    """Call `function(rank, world_size, *args)` in `world_size` processes of one gloo group.

    `function` must stand at the top level of its file; it is found again by file name, so that test
    modules need not be importable. Results and arguments travel by pickle between these processes.

    Raises:
        RuntimeError: A rank raised (its traceback is in the message) or did not answer in time.
    """
    context = multiprocessing.get_context("spawn")
    results: Queue[tuple[int, bytes, str | None]] = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        where = (function.__code__.co_filename, function.__name__)
        ranks = [
            context.Process(
                target=_rank_main,
                args=(where, rank, world_size, f"{folder}/rendezvous", args, results),
                daemon=True,
            )
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        try:
            answers = [results.get(timeout=timeout_s) for _ in ranks]
        finally:
            for process in ranks:
                process.join(timeout=5)
                process.kill()
    failures = [f"rank {rank}:\n{error}" for rank, _, error in answers if error]
    if failures:
        raise RuntimeError("\n".join(failures))
    return [pickle.loads(value) for _, value, _ in sorted(answers, key=lambda answer: answer[0])]  # noqa: S301


def assert_same_weights(one: Path, other: Path) -> None:
    """Fail unless the newest checkpoints of two folders hold bit-identical weights and step."""
    first, second = (checkpoints.load(checkpoints.newest(folder)) for folder in (one, other))
    assert first["global_step"] == second["global_step"]
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name]), f"{name} differs"


def resume_equals_straight(app: App, words: Sequence[str], folder: Path, *, stop: int) -> None:
    """Fail unless a run that is cut after `stop` steps and resumed ends bit-identical.

    Args:
        app: The member's command line.
        words: A training of it with every checkpoint kept, one at `stop` among them.
        folder: Where the two runs go.
        stop: Optimiser step of the checkpoint that survives, as after a kill.
    """
    straight, resumed = folder / "straight", folder / "resumed"
    for run in (straight, resumed):
        assert app.main([*words, f"--run_dir={run}"]) == 0
    for path in (resumed / "checkpoints").glob("step-*.ckpt"):
        if path.stem != f"step-{stop:08d}":
            checkpoints.remove(path)
    assert app.main([*words, f"--run_dir={resumed}", "--resume=auto"]) == 0
    assert_same_weights(straight / "checkpoints", resumed / "checkpoints")


def numbered_sample(number: int) -> dict[str, Any]:
    """Return a sample of `txt`, `cls` and `json` members that all follow from its number."""
    return {
        "__key__": f"{number:03d}",
        "txt": f"text {number}",
        "cls": number,
        "json": {"number": number, "parity": ["even", "odd"][number % 2]},
    }


def tiny_shards(
    folder: Path,
    sizes: Sequence[int] = (3, 4),
    *,
    sample: Callable[[int], Mapping[str, Any]] = numbered_sample,
) -> ShardIndex:
    """Write shards `0.tar`, `1.tar`, ... and their index.

    Args:
        folder: Where they go; made if absent.
        sizes: Number of samples of each shard.
        sample: Makes a sample, in the form that `write_shard` takes, from its number in the folder.
            Numbers run across shards; give each its own `"__key__"`.

    Raises:
        ShardError: As for `write_shard`, among others for a size of 0.
    """
    numbers = itertools.count()
    entries = [
        write_shard(folder / f"{shard}.tar", map(sample, itertools.islice(numbers, size)))
        for shard, size in enumerate(sizes)
    ]
    return write_index(folder, entries)


def _rank_main(
    where: tuple[str, str],
    rank: int,
    world_size: int,
    rendezvous: str,
    args: tuple[Any, ...],
    results: "Queue[tuple[int, bytes, str | None]]",
) -> None:
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(world_size)
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size
        )
        value = getattr(_load_file(where[0]), where[1])(rank, world_size, *args)
        # Pickled here: torch hands tensors over by file descriptor, and this process may end first.
        results.put((rank, pickle.dumps(value), None))
        dist.destroy_process_group()
    except BaseException:  # the parent reports whatever ended the rank, SystemExit included
        results.put((rank, b"", traceback.format_exc()))


def _load_file(path: str) -> ModuleType:
    name = f"_rank_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
