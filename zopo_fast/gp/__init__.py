"""Kernels, Gaussian processes, arrays and devices, on top of the native module."""

TYPE_CHECKING = False
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # Pickles of version 0.1.0 name this package, which was then the module of these two classes.
        if name not in ("GaussianProcess", "Posterior"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module("zopo_fast.gp.process"), name)
