"""Former names of modules, so that pickles made by an earlier version still load."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # not typing's: `import zopo_fast` has to stay quick
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PACKAGE = "zopo_fast"

# Modules that a pickle of version 0.1.0 can name. zopo_fast.gp, now a package, resolves its own names.
MOVED = {
    "batch": "search.batch",
    "config": "search.config",
    "device": "gp.cuda_arrays",
    "endpoint": "llm.openai.config",
    "infinite": "gp.infinite_ntk",
    "kernel": "gp.ntk",
    "limits": "llm.limits",
    "optimizer": "search.optimizer",
    "pool": "prompts.pool",
    "result": "runs.result",
    "run": "runs.optimize",
    "run_config": "runs.config",
    "task": "tasks.task",
    "threads": "gp.threads",
    "usage": "llm.types",
}


class MovedModules:
    """Finder and loader of modules under their former names."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of a module that has moved; None for any other name."""
        package, _, module = name.rpartition(".")
        if package != PACKAGE or module not in MOVED:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, MovedModules())  # type: ignore[arg-type]  # duck-typed

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the creation of the module to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module with the names of the one that replaces it."""
        from importlib import import_module

        home = import_module(f"{PACKAGE}.{MOVED[module.__name__.rpartition('.')[2]]}")
        vars(module).update({name: value for name, value in vars(home).items() if name[0] != "_"})


def install() -> None:
    """Resolve former module names after all other finders have failed."""
    if not any(getattr(finder, "__qualname__", "") == MovedModules.__qualname__ for finder in sys.meta_path):
        sys.meta_path.append(MovedModules)
