"""All static contract checks in one list: each takes a root folder and returns problems."""

from collections.abc import Callable
from pathlib import Path

from contracts import boundaries, code, layout, readme, verbs, workspace

CHECKS: tuple[Callable[[Path], list[str]], ...] = (
    boundaries.check_neighbours,
    boundaries.check_declared,
    boundaries.check_config_imports,
    boundaries.check_model_imports,
    boundaries.check_losses_imports,
    code.check_no_print,
    code.check_no_pickle,
    code.check_metric_names,
    code.check_duplicates,
    layout.check_file_names,
    layout.check_file_sizes,
    layout.check_recipes,
    layout.check_texts,
    readme.check_headings,
    readme.check_commands,
    verbs.check_verbs,
    verbs.check_verb_targets,
    workspace.check_workspace,
    workspace.check_member_projects,
    workspace.check_lock_addresses,
    workspace.check_results,
)
