"""Emulation of the CUDA kernels on the host."""

from __future__ import annotations

from zopo_fast import _core

EMULATED = "emulated" in _core.cuda_status()
"""True when devices are emulated (tests/native/emulation): launches take milliseconds, so tests loop less."""
