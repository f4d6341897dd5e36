"""Number of threads of the native code."""

from __future__ import annotations

from zopo_fast import _core
from zopo_fast._utils.checks import as_integer
from zopo_fast._utils.public import public
from zopo_fast.errors import ConfigError

MAX_THREADS = 4096


@public
def set_num_threads(n: int) -> None:
    """Set the maximum number of threads of a native call in this process; 0 means one per core.

    Only large calls use several threads: Gram matrices, posteriors of many points, and searches of pools of
    about five thousand prompts (dimension 384) or more. A step on a small pool runs on the calling thread.

    Raises:
        ConfigError: `n` is not an integer from 0 to 4096.
    """
    if (count := as_integer("set_num_threads", n)) < 0:
        raise ConfigError(f"set_num_threads: must not be negative, got {count}")
    if count > MAX_THREADS:
        raise ConfigError(f"set_num_threads: must be at most {MAX_THREADS}, got {count}")
    _core.set_threads(count)


@public
def get_num_threads() -> int:
    """Return the maximum number of threads of a native call."""
    return _core.threads()
