"""Weights that a new run starts from."""

from pathlib import Path

from torch import nn


def start_from(network: nn.Module, loaded: nn.Module, *, path: Path) -> None:
    """Copy all weights of a loaded network into one of the same architecture.

    Args:
        network: What will be trained.
        loaded: What `model.init_from` holds.
        path: Its name, for messages.

    Raises:
        ValueError: Names or shapes of the weights differ.
    """
    expected, state = network.state_dict(), loaded.state_dict()
    if unlike := sorted(expected.keys() ^ state.keys()):
        raise ValueError(f"model.init_from {path} is of another architecture: {unlike[0]} differs")
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            raise ValueError(
                f"model.init_from {path} does not fit the options: {name} is "
                f"{list(state[name].shape)}, expected {list(tensor.shape)}"
            )
    network.load_state_dict(state)
