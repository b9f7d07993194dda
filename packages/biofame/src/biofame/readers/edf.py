"""EDF and BDF recordings, which are cut into windows later."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from biofame.edf import channel_names, read_recording
from biofame.edf_header import read_header
from biofame.readers.part import SourcePart, Span, split_of_name
from biofame.windows import Windows


def read_edf(
    path: Path, *, name: str | None = None, channels: Sequence[str] | None = None
) -> Iterator[SourcePart]:
    """Read a recording as one window `[1, C, T]` with its annotations.

    Args:
        path: The file.
        name: Of the recording; by default the file's, without suffix.
        channels: Canonical names; those that the file lacks are left out.

    Raises:
        ValueError: The file is damaged, or has none of the channels.
    """
    wanted = None
    if channels is not None:
        there = channel_names(read_header(path), triggers=True)
        wanted = [name for name in channels if name in there]
        if not wanted:
            raise ValueError(
                f"{path} has none of the channels {', '.join(channels)}: it has "
                f"{', '.join(there) or 'no signal'}"
            )
    recording = read_recording(path, channels=wanted)
    yield SourcePart(
        where=str(path),
        windows=Windows(
            samples=recording.samples[None],
            subjects=[""],
            recordings=[name or path.stem],
            onsets=np.zeros(1),
            splits=[split_of_name(path.stem)],
        ),
        channels=recording.channels,
        units=recording.units,
        rate=recording.rate,
        spans=tuple(
            Span(onset=one.onset, duration=one.duration, text=one.text)
            for one in recording.annotations
        ),
    )
