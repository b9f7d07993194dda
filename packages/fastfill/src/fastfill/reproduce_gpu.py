"""The scale `gpu` of `reproduce`: ResNets on rendered images, a gallery of a million (spec 7b).

Not here: what is measured (`study_gpu.py`, `gallery_gpu.py`) and concluded (`claims.py`,
`claims_gpu.py`).
"""

from pathlib import Path

from fastfill.claims import judge_update
from fastfill.claims_gpu import judge_gallery
from fastfill.gallery_gpu import measure_gallery
from fastfill.study import PERMUTATIONS
from fastfill.study_gpu import ShapeScale, ShapeUpdate, measure_shapes
from tenfold.jobs import run_jobs
from tenfold.measurements import by_arm
from tenfold.results import Result


def compare_on_shapes(
    size: ShapeScale, folder: Path, *, seeds: int, device: str
) -> dict[str, Result]:
    """Measure every update and the gallery of the first one, and judge.

    Args:
        size: Sizes of everything.
        folder: Of models and features.
        seeds: Updates.
        device: `cpu` or `cuda`.

    Returns:
        Results by file name.
    """
    updates = [
        ShapeUpdate(seed=seed, size=size, folder=folder.absolute(), device=device)
        for seed in range(seeds)
    ]
    out = folder / "measured"
    tasks = {update.key: update for update in updates}
    measured = run_jobs(measure_shapes, tasks, out=out, settings={}, title="updates")
    gallery = run_jobs(
        measure_gallery, {"gallery": updates[0]}, out=out, settings={}, title="gallery"
    )
    results = judge_update(
        by_arm(measured.values()), demo="shapes", scale="gpu", notes=_notes(size)
    )
    notes = (
        f"{size.gallery} vectors of the models of seed 0 on faiss-ivf, written at most at "
        f"{size.rate:g} a second in the order by sigma; single queries for 10 neighbours meanwhile."
    )
    return results | judge_gallery(gallery["gallery"], rate=size.rate, seeds=seeds, notes=notes)


def _notes(size: ShapeScale) -> str:
    recipe = size.recipe
    return (
        f"Rendered images of {size.image_size} pixels; {size.old.arch} on {size.seen} classes, "
        f"{size.new.arch} on {size.new.num_classes}, {recipe.steps} steps of {recipe.batch_size} "
        f"images; h with inner {recipe.inner}, {recipe.epochs} epochs over {size.views} views of "
        f"{size.train} images; {size.test} test images; areas are means of 22 points, random is "
        f"the mean of {PERMUTATIONS} orders."
    )
