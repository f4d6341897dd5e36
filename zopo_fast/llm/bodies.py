"""Default body parameters of chat calls by purpose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANSWER_BODY: Mapping[str, Any] = {"temperature": 0.0, "max_tokens": 64}
WRITER_BODY: Mapping[str, Any] = {"temperature": 0.9, "max_tokens": 256}
JUDGE_BODY: Mapping[str, Any] = {"temperature": 0, "max_tokens": 256}  # room for a model that thinks first
