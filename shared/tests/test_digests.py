"""Digests of networks."""

import torch
from torch import nn

from tenfold.digests import weights_sha256


def test_a_digest_is_that_of_names_types_shapes_and_bytes():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    copy = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    copy.load_state_dict(network.state_dict())
    digest = weights_sha256(network)
    assert weights_sha256(copy) == digest
    assert len(digest) == 64
    assert weights_sha256(copy.double()) != digest
    assert weights_sha256(nn.Sequential(nn.Identity(), *network)) != digest
    with torch.no_grad():
        network[1].running_mean[0] += 1
    assert weights_sha256(network) != digest
