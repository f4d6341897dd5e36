"""How many threads the native code may use."""

from __future__ import annotations

from zopo_fast import _core
from zopo_fast._utils.checks import as_integer
from zopo_fast._utils.public import public
from zopo_fast.errors import ConfigError

MOST_THREADS = 4096  # more cores than any machine this was made for


@public
def set_num_threads(n: int) -> None:
    """Let a native call use at most n threads, in this process; 0: as many as there are cores.

    Only calls large enough to repay a thread's start are split (Gram matrices, posteriors of many points,
    pools from about five thousand prompts of 384 numbers); a step on a small pool runs on the caller's.

    Raises:
        ConfigError: n is not an integer, negative, or more than 4,096.
    """
    if (count := as_integer("set_num_threads", n)) < 0:
        raise ConfigError(f"set_num_threads: must not be negative, got {count}")
    if count > MOST_THREADS:
        raise ConfigError(f"set_num_threads: must be at most {MOST_THREADS}, got {count}")
    _core.set_threads(count)


@public
def get_num_threads() -> int:
    """Return the number of threads that a large native call uses."""
    return _core.threads()
