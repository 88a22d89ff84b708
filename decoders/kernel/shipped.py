"""Stored profiles: those that come with the package, and those that the lab made.

Needed for kernels that carry no types of their own.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path

from nestscope.decoders.cache import cache_root
from nestscope.decoders.kernel.profile import Profile

_FOLDER = "profiles"


@cache
def shipped_profiles() -> tuple[Profile, ...]:
    """Return every profile of the package, by file name.

    Raises:
        ProfileError: if one is damaged.
    """
    folder = files(__package__) / _FOLDER
    rows = sorted(folder.iterdir(), key=lambda entry: entry.name) if folder.is_dir() else []
    return tuple(
        Profile.from_json(entry.read_bytes(), entry.name)
        for entry in rows
        if entry.name.endswith(".json")
    )


def own_profile_folder() -> Path:
    """Return where profiles are that were made on this machine, by `keep_profile`."""
    return cache_root() / _FOLDER


def own_profiles() -> tuple[Profile, ...]:
    """Return the profiles that were made on this machine, by file name.

    Raises:
        ProfileError: if one is damaged; its path is named.
    """
    return tuple(Profile.open(path) for path in sorted(own_profile_folder().glob("*.json")))


def keep_profile(profile: Profile) -> Path:
    """Store a profile on this machine, so that `stored_profile` finds it; return the file.

    Raises:
        OSError: if it cannot be written.
    """
    path = own_profile_folder() / f"{profile.build_id.hex()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(profile.to_json())
    new.replace(path)
    return path


def stored_profiles() -> tuple[Profile, ...]:
    """Return every profile at hand, the package's first.

    Raises:
        ProfileError: if one is damaged.
    """
    return shipped_profiles() + own_profiles()


def stored_profile(build_id: bytes) -> Profile | None:
    """Return the profile of the kernel with this build id, or None.

    Raises:
        ProfileError: if a stored one is damaged.
    """
    return next((found for found in stored_profiles() if found.build_id == build_id), None)
