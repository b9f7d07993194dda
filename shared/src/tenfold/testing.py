"""What tests of several members need: real gloo ranks, exact comparison of runs, tiny shards.

Not here: fixtures (each member's conftest) and the oracles of one module (its own test file).
"""

import importlib.util
import itertools
import multiprocessing
import os
import pickle
import queue
import sys
import tempfile
import time
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
        RuntimeError: A rank raised or did not answer in time; the message has the tracebacks of
            those that raised and the numbers of those that did not answer.
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
            answers = _collect(results, world_size, timeout_s)
            for rank in answers:  # the others hang
                ranks[rank].join(timeout=5)
        finally:
            for process in ranks:
                process.kill()
                process.join()
    failures = [f"rank {rank}:\n{error}" for rank, (_, error) in sorted(answers.items()) if error]
    if silent := [rank for rank in range(world_size) if rank not in answers]:
        failures.append(f"ranks {silent} did not answer within {timeout_s:g} s")
    if failures:
        raise RuntimeError("\n".join(failures))
    return [pickle.loads(value) for _, (value, _) in sorted(answers.items())]  # noqa: S301


def _collect(
    results: "Queue[tuple[int, bytes, str | None]]", world_size: int, timeout_s: float
) -> dict[int, tuple[bytes, str | None]]:
    """Return value and traceback by rank, of those ranks that answer in time."""
    answers: dict[int, tuple[bytes, str | None]] = {}
    end = time.monotonic() + timeout_s
    while len(answers) < world_size:
        try:
            rank, value, error = results.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        answers[rank] = value, error
    return answers


def assert_same_weights(one: Path, other: Path) -> None:
    """Fail unless the newest checkpoints of two folders hold bit-identical weights and step."""
    first, second = (checkpoints.load(checkpoints.newest(folder)) for folder in (one, other))
    assert first["global_step"] == second["global_step"]
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name]), f"{name} differs"


def assert_same_run(one: Path, other: Path, *, after: int) -> None:
    """Fail unless two run folders are the same from step `after` on.

    Compared bit for bit: weights, optimiser and schedule states of the newest checkpoints, the best
    checkpoints' names, and the metrics without `time/*` and `mem/*`, which no two runs share.
    """
    assert_same_weights(one / "checkpoints", other / "checkpoints")
    first, second = (
        checkpoints.load(checkpoints.newest(run / "checkpoints")) for run in (one, other)
    )
    for name in ("optimizer_states", "lr_schedulers"):
        _assert_same_values(first[name], second[name], name)
    rows, others = (_metrics_after(run / "metrics.csv", after) for run in (one, other))
    assert rows, f"{one} has no metrics from step {after} on: nothing to compare"
    _assert_same_values(rows, others, "metrics.csv")
    best, other_best = (
        sorted(path.name for path in (run / "checkpoints").glob("best-*.ckpt"))
        for run in (one, other)
    )
    _assert_same_values(best, other_best, "the best checkpoint")


def _assert_same_values(one: Any, other: Any, name: str) -> None:
    """Fail unless two nested states are bit-identical; the message says where they are not."""
    assert type(one) is type(other), f"{name} differs: {type(one)} and {type(other)}"
    if isinstance(one, Mapping):
        assert one.keys() == other.keys(), f"{name} differs: {one.keys()} and {other.keys()}"
        for key in one:
            _assert_same_values(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), f"{name} differs: {len(one)} and {len(other)} entries"
        for index, pair in enumerate(zip(one, other, strict=True)):
            _assert_same_values(*pair, f"{name}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), f"{name} differs"
    else:
        assert one == other, f"{name} differs: {one} and {other}"


def _metrics_after(path: Path, step: int) -> dict[float, dict[str, float]]:
    """Return the metrics by step; a resumed run may log one step in several rows."""
    # Loads lightning, several seconds, which ranks of `run_ranks` do without.
    from tenfold.callbacks.metrics import read_metrics

    rows: dict[float, dict[str, float]] = {}
    for row in read_metrics(path):
        number = row.pop("step")
        values = {n: v for n, v in row.items() if not n.startswith(("time/", "mem/"))}
        if number >= step and values:
            rows.setdefault(number, {}).update(values)
    return rows


def resume_equals_straight(app: App, words: Sequence[str], folder: Path, *, stop: int) -> None:
    """Fail unless a run that is cut after `stop` steps and resumed is the same from there on.

    Args:
        app: The member's command line.
        words: A training of it that keeps every checkpoint, one at `stop` and a later one.
        folder: Where the two runs go.
        stop: Optimiser step of the checkpoint that survives, as after a kill.
    """
    straight, resumed = folder / "straight", folder / "resumed"
    for run in (straight, resumed):
        assert app.main([*words, f"--run_dir={run}"]) == 0
    last = checkpoints.verify(checkpoints.newest(straight / "checkpoints"))["step"]
    assert stop < last, f"the run ends at step {last}: nothing is left to resume after {stop}"
    _cut(resumed / "checkpoints", stop)
    assert app.main([*words, f"--run_dir={resumed}", "--resume=auto"]) == 0
    assert_same_run(straight, resumed, after=stop)


def _cut(folder: Path, stop: int) -> None:
    """Leave of the periodic checkpoints the one at `stop`, of the best ones none from later on."""
    for path in folder.glob("*.ckpt"):
        kind, _, step = path.stem.rpartition("-")
        if int(step) > stop or (kind == "step" and int(step) != stop):
            checkpoints.remove(path)


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
