"""The live gallery: columns, journal, leases, inbox, and the verbs that look at it."""

from fastfill.gallery.control import Control, read_control, set_paused, set_rate
from fastfill.gallery.failures import Failure, RetryPolicy
from fastfill.gallery.gallery import Applied, Gallery
from fastfill.gallery.leases import Leases
from fastfill.gallery.lock import GalleryBusyError
from fastfill.gallery.pending import Message, submit
from fastfill.gallery.reading import Change, Counts, GalleryReader
from fastfill.gallery.state import GalleryCards, GalleryState, Status, Version

__all__ = [
    "Applied",
    "Change",
    "Control",
    "Counts",
    "Failure",
    "Gallery",
    "GalleryBusyError",
    "GalleryCards",
    "GalleryReader",
    "GalleryState",
    "Leases",
    "Message",
    "RetryPolicy",
    "Status",
    "Version",
    "read_control",
    "set_paused",
    "set_rate",
    "submit",
]
