"""Where fetched and built files are kept."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Return the cache folder: `$NESTSCOPE_CACHE`, or `nestscope` in the XDG cache folder."""
    own = os.environ.get("NESTSCOPE_CACHE")
    if own:
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that a relative path is to be ignored.
    if base and Path(base).is_absolute():
        return Path(base) / "nestscope"
    return Path.home() / ".cache" / "nestscope"
