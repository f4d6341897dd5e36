"""Default parameters of chat requests that an endpoint refuses: left out or renamed, once for all calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from zopo_fast.llm.openai.refusals.error_body import ErrorBody
from zopo_fast.llm.openai.refusals.kinds import mentioned_field

_log = logging.getLogger(__name__)

# Endpoints of reasoning models know the limit of an answer under this name alone.
_SUCCESSORS: Mapping[str, str] = {"max_tokens": "max_completion_tokens"}

Changes = Mapping[str, str | None]
"""New names of default parameters; None: the parameter is left out."""


class RequestFields:
    """Parameters of the chat requests of one client, adapted to what the endpoint accepts.

    Args:
        defaults: names of the parameters that may be left out or renamed.
        body: all parameters of a chat request, the defaults included.
        changes: changes that the endpoint accepted, which `accepted` extends.
        where: model and endpoint, for the log.
    """

    def __init__(
        self,
        defaults: frozenset[str],
        body: Mapping[str, Any],
        changes: dict[str, str | None],
        where: str,
    ) -> None:
        self._accepted = changes
        self._defaults = defaults
        self._body = body
        self._where = where

    @property
    def body(self) -> dict[str, Any]:
        """Parameters of the next chat request."""
        return self.changed(self._accepted)

    def changed(self, changes: Changes) -> dict[str, Any]:
        """Return the parameters after `changes`."""
        names = {name: changes.get(name, name) if name in self._defaults else name for name in self._body}
        return {new: self._body[name] for name, new in names.items() if new is not None}

    def further(self, status: int, error: ErrorBody, changes: Changes, *, keep_limit: bool) -> Changes | None:
        """Return the changes to try after a refusal of a request with `changes`; None: there is none.

        Args:
            status: HTTP status of the refusal.
            error: error of the refusal.
            changes: changes of the refused request.
            keep_limit: keep the limit of the answer's length, which a budget needs.
        """
        sent = self.changed(changes)
        ours = {new: name for name in sorted(self._defaults) if (new := changes.get(name, name)) in sent}
        # A mere mention is enough, because a change that does not help is not kept.
        refused = mentioned_field(status, error, ours) if status in (400, 422) else None
        if refused is None:
            return None
        default = ours[refused]
        successor = _SUCCESSORS.get(refused)
        if successor is None or successor in sent:
            if keep_limit and default in _SUCCESSORS and successor not in sent:
                return None
            return {**changes, default: None}
        return {**changes, default: successor}

    def accepted(self, changes: Changes) -> None:
        """Record that the endpoint accepted a request with `changes`, and log what is new."""
        new = {name: to for name, to in changes.items() if self._accepted.get(name, name) != to}
        self._accepted.update(new)
        for name, to in new.items():
            what = f"sends {to} instead" if to is not None else "leaves it out"
            _log.warning("%s refuses the default parameter %s; the client %s", self._where, name, what)
