"""Many independent jobs that write files, resumable after any kill: in process, in a pool, on Ray.

`run_jobs` is the whole API; `JobError` is what it raises when jobs fail. `run` drives, `work` does
one job, `backends` are the places where jobs run, `store` is what lies on disk, `marks` says what a
finished job promised, `progress` tells the user.
"""

from tenfold.jobs.run import run_jobs
from tenfold.jobs.store import JobError

__all__ = ["JobError", "run_jobs"]
