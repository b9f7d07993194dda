"""Views of windows for contrastive pre-training, made on the windows' device.

TS-TCC's weak view is jitter-and-scale, its strong one permutation-and-jitter; TF-C's are jitter in
time, and removed and raised amplitudes in frequency. Numbers come from torch's generator on that
device, which training seeds by the step.

Shapes: B windows, C channels, L samples, F frequencies, S segments.
"""

import torch
from torch import Tensor


def jitter(samples_BCL: Tensor, *, share: float) -> Tensor:
    """Add white noise whose deviation is `share` of each window's and channel's."""
    deviation = samples_BCL.std(dim=-1, correction=0, keepdim=True)
    return samples_BCL + torch.randn_like(samples_BCL) * (share * deviation)


def scale(samples_BCL: Tensor, *, std: float) -> Tensor:
    """Multiply each sample by a factor from N(2, std^2), the same for all channels.

    It is what the released code does; one factor for a window would be undone by RevIN.
    """
    shape = (len(samples_BCL), 1, samples_BCL.shape[-1])
    return samples_BCL * (2 + std * torch.randn(shape, device=samples_BCL.device))


def permute(samples_BCL: Tensor, *, segments: int) -> Tensor:
    """Cut each window at random times into 1 to `segments` - 1 parts and shuffle them.

    All channels of a window are cut alike. (The released code takes the first channel for all.)
    """
    windows, _, length = samples_BCL.shape
    device = samples_BCL.device
    most = segments - 1
    counts_B1 = torch.randint(1, segments, (windows, 1), device=device)
    cuts_BS = torch.randint(1, max(length, 2), (windows, most), device=device)
    unused = torch.arange(most, device=device) >= counts_B1 - 1
    cuts_BS = cuts_BS.masked_fill(unused, length).sort(dim=1).values
    times_BL = torch.arange(length, device=device).expand(windows, -1).contiguous()
    segment_BL = torch.searchsorted(cuts_BS, times_BL, right=True)
    place_BS = torch.rand(windows, segments, device=device).argsort(dim=1)
    order_BL = (place_BS.gather(1, segment_BL) * length + times_BL).argsort(dim=1)
    return samples_BCL.gather(2, order_BL[:, None].expand_as(samples_BCL))


def weak_view(samples_BCL: Tensor, *, jitter_share: float, scale_std: float) -> Tensor:
    """Return TS-TCC's weak view, jitter-and-scale."""
    return scale(jitter(samples_BCL, share=jitter_share), std=scale_std)


def strong_view(samples_BCL: Tensor, *, jitter_share: float, segments: int) -> Tensor:
    """Return TS-TCC's strong view, permutation-and-jitter."""
    return jitter(permute(samples_BCL, segments=segments), share=jitter_share)


def amplitudes(samples_BCL: Tensor) -> Tensor:
    """Return the amplitude of each frequency but 0, float32 `[B, C, L // 2]`."""
    with torch.autocast(samples_BCL.device.type, enabled=False):
        spectrum = torch.fft.rfft(samples_BCL.float(), dim=-1, norm="ortho")
        return spectrum[..., 1:].abs()


def perturb(amplitudes_BCF: Tensor, *, share: float, raised: float) -> Tensor:
    """Remove a share of the frequencies, and raise a share (TF-C's view in frequency).

    Each is drawn by itself. A raised one gains up to `raised` of its channel's largest amplitude.
    The released code sums a copy with removed and one with raised frequencies, which doubles all.
    """
    kept = torch.rand_like(amplitudes_BCF) >= share
    chosen = torch.rand_like(amplitudes_BCF) < share
    largest = amplitudes_BCF.amax(dim=-1, keepdim=True)
    gain = torch.rand_like(amplitudes_BCF) * (raised * largest)
    return amplitudes_BCF * kept + gain * chosen
