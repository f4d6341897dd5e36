"""Methods of the comparison, and what each needs.

A method gets a `Run`, scores prompts by `run.scorer`, asks the writer by `run.write`, and states its best
prompt so far by `run.take`. It ends by itself or by the `RefusedError` of a completion beyond the budget.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields

import zopo_fast as zf

from ...common.harness import absent
from .session import Run

HINT = "`make end-to-end-peers` installs it"
SCRIPTED, LOCAL = "scripted writer", "local"
TRACKS = (SCRIPTED, LOCAL)


@dataclass(frozen=True)
class Method:
    """A method by its place.

    Args:
        name: in results.
        module: of this package with the functions.
        function: function `run(Run) -> None`.
        needs: importable modules.
        tracks: where it takes part.
        grows: it needs a pool that grows.
        demonstrates: its prompts may hold demonstrations.
    """

    name: str
    module: str
    function: str
    needs: tuple[str, ...] = ()
    tracks: tuple[str, ...] = TRACKS
    grows: bool = False
    demonstrates: bool = False

    def missing(self) -> str | None:
        """Return why the method cannot run here; None if it can."""
        if reason := absent(*self.needs):
            return f"{reason.split(';')[0]}; {HINT}"
        if self.grows and "grow" not in {each.name for each in fields(zf.RunConfig)}:
            return "this version has no pool that grows"
        return None

    def load(self) -> Callable[[Run], None]:
        """Return the function that runs the method."""
        module = importlib.import_module(f".{self.module}", __package__)
        found: Callable[[Run], None] = getattr(module, self.function)
        return found


OURS = "zopo_fast"
OURS_DEMONSTRATED = "zopo_fast, demonstrations"
FIXED = "zopo_fast, fixed pool"
METHODS = {
    method.name: method
    for method in (
        Method(OURS, "ours", "grown", grows=True),
        Method("zopo_fast, editor in process", "ours", "grown_free", tracks=(SCRIPTED,), grows=True),
        Method(OURS_DEMONSTRATED, "ours", "demonstrated", grows=True, demonstrates=True),
        Method(FIXED, "ours", "fixed"),
        Method("GEPA", "gepa_peer", "run", ("gepa",)),
        Method("CAPO", "promptolution_peers", "capo", ("promptolution",), demonstrates=True),
        Method("CAPO, no demonstrations", "promptolution_peers", "capo_zero_shot", ("promptolution",)),
        Method("EvoPromptGA", "promptolution_peers", "evoprompt", ("promptolution",)),
        Method("OPRO", "promptolution_peers", "opro", ("promptolution",)),
        Method("MIPROv2", "dspy_peer", "mipro", ("dspy", "optuna"), demonstrates=True),
        Method("MIPROv2, no demonstrations", "dspy_peer", "mipro_zero_shot", ("dspy", "optuna")),
    )
}
