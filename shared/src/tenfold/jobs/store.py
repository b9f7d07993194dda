"""What jobs leave on disk: private folders, files in place, marks, and the lock of a run.

Below `out/.jobs/<title>/` lie `<key>.json` (a finished job), `moving/<key>.json` (a job whose files
are just being moved into place) and `work-<id>/` (a job at work). Only the process that holds the
lock changes any of it outside the `work-<id>` folders, so a worker that outlives its run does no
harm.
"""

import fcntl
import json
import logging
import shutil
import uuid
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenfold.atomic import fsync_dir, remove_temporaries, sha256_file, write_json
from tenfold.jobs.marks import FileRecord, Mark, differences
from tenfold.jobs.work import STATE, Call, Done

logger = logging.getLogger(__name__)


class JobError(RuntimeError):
    """Jobs failed, a worker died, or another run holds the folder; the message says which."""


class JobStore:
    """The finished jobs of one title below one output folder.

    Args:
        out: Absolute output folder.
        title: Name of this set of jobs.
        settings: Canonical settings that every finished job must share.
    """

    def __init__(self, out: Path, title: str, settings: Mapping[str, Any]) -> None:
        self.out = out
        self.title = title
        self.settings = dict(settings)
        self.marks: dict[str, Mark] = {}
        self._owners: dict[str, str] = {}
        self._folder = out / STATE / title
        self._moving = self._folder / "moving"

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold this title of this folder alone; the kernel lets go when the process ends.

        Raises:
            JobError: Another run holds it.
            ValueError: Finished jobs were made with other settings or by another version.
        """
        self._moving.mkdir(parents=True, exist_ok=True)
        with (self.out / STATE / f"{self.title}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise JobError(
                    f"another run of {self.title!r} is writing to {self.out}: "
                    "wait for it to end or choose another output folder"
                ) from error
            self._load()
            self._recover()
            try:
                yield
            finally:
                self._remove_work_folders()

    def keep_only_unchanged(self, fingerprints: Mapping[str, str]) -> None:
        """Discard finished jobs whose task changed, all at once: new jobs may reuse their paths."""
        known = [key for key in fingerprints if key in self.marks]
        changed = [key for key in known if self.marks[key].task != fingerprints[key]]
        for key in changed:
            self._discard(key)
        if changed:
            logger.warning("%s: %d finished jobs changed and are redone", self.title, len(changed))
        if others := len(self.marks.keys() - fingerprints.keys()):
            logger.warning(
                "%s: %s holds %d finished jobs of earlier runs that this run does not name; "
                "their files stay",
                self.title,
                self.out,
                others,
            )

    def is_finished(self, key: str) -> bool:
        """Return whether a job's mark stands and all its files are intact; else forget the job."""
        if key not in self.marks:
            return False
        problem = next(filter(None, map(self._problem, self.marks[key].files.items())), None)
        if problem is None:
            return True
        logger.warning("%s: %s is redone: %s", self.title, key, problem)
        self._discard(key)
        return False

    def new_work_folder(self) -> Path:
        """Return an unused private folder; the worker makes it."""
        return self._folder / f"work-{uuid.uuid4().hex}"

    def publish(self, call: Call, done: Done, fingerprint: str) -> None:
        """Move a job's files into place; its mark takes its name last.

        Raises:
            ValueError: Another job wrote one of these paths.
            OSError: The folder cannot be written.
        """
        for name in done.files:
            if (owner := self._owners.get(name, call.key)) != call.key:
                raise ValueError(f"jobs {owner!r} and {call.key!r} both write {name!r}")
        mark = Mark(call.key, fingerprint, self.settings, done.files, done.result)
        moving = self._moving / f"{call.key}.json"
        # The intent comes first: a kill in the middle must leave no file that nobody remembers.
        write_json(moving, mark.to_json())
        for name in done.files:
            target = self.out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (call.folder / name).replace(target)
        self._fsync_folders(done.files)
        moving.replace(self._mark_path(call.key))
        fsync_dir(self._folder)
        self._remember(mark)

    def remove_work_folder(self, folder: Path) -> None:
        """Delete a private folder and whatever its job left there."""
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            logger.warning("%s: %s could not be removed", self.title, folder)

    def _load(self) -> None:
        remove_temporaries(self._folder)
        remove_temporaries(self._moving)
        for path in sorted(self._folder.glob("*.json")):
            mark = _read_mark(path)
            if changes := differences(mark.settings, self.settings):
                raise ValueError(
                    f"{self.out} holds jobs {self.title!r} made with other settings "
                    f"({'; '.join(changes)}): restore them or choose another output folder"
                )
            self._remember(mark)

    def _recover(self) -> None:
        """Undo what a killed run left half done."""
        for path in sorted(self._moving.glob("*.json")):
            for name in _read_mark(path).files:
                (self.out / name).unlink(missing_ok=True)
            path.unlink()
        self._remove_work_folders()

    def _remove_work_folders(self) -> None:
        for folder in self._folder.glob("work-*/"):
            self.remove_work_folder(folder)

    def _remember(self, mark: Mark) -> None:
        self.marks[mark.key] = mark
        self._owners |= dict.fromkeys(mark.files, mark.key)

    def _discard(self, key: str) -> None:
        """Remove files first: a mark that misses files is redone, files without mark are lost."""
        for name in self.marks.pop(key).files:
            (self.out / name).unlink(missing_ok=True)
            self._owners.pop(name, None)
        self._mark_path(key).unlink()

    def _problem(self, item: tuple[str, FileRecord]) -> str | None:
        name, record = item
        path = self.out / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != record.bytes:
            return f"{name} has {size} bytes, expected {record.bytes}"
        return None if sha256_file(path) == record.sha256 else f"{name} has other content"

    def _fsync_folders(self, names: Iterable[str]) -> None:
        folders = {self.out}
        for name in names:
            folders.update(self.out / parent for parent in Path(name).parents)
        for folder in sorted(folders):
            fsync_dir(folder)

    def _mark_path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def _read_mark(path: Path) -> Mark:
    try:
        return Mark.from_json(json.loads(path.read_bytes()))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be used: {error}; delete it to redo its job, or choose another "
            "output folder"
        ) from error
