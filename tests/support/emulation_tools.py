"""Whether the CUDA kernels run on the host."""

from __future__ import annotations

from zopo_fast import _core

# Kernels run thread by thread on the host (tests/native/emulation): long tests are shortened, and only there.
EMULATED = "emulated" in _core.cuda_status()
