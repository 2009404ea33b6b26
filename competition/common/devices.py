"""The device that computes: this machine's processor, or an accelerator."""

import platform

import keras


def describe_device() -> str:
    """Return the backend with its version, and its devices or this machine's processor."""
    backend = keras.backend.backend()
    version = __import__(backend).__version__
    return (
        f"{backend} {version} on {', '.join(_list_accelerators()) or f'CPU ({platform.machine()})'}"
    )


def has_accelerator() -> bool:
    """Tell whether the backend sees another device than the processor."""
    return bool(_list_accelerators())


def _list_accelerators() -> list[str]:
    return [
        name for name in keras.distribution.list_devices() if not name.lower().startswith("cpu")
    ]
