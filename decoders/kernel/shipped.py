"""The profiles that come with the package, for kernels that carry no types of their own."""

from functools import cache
from importlib.resources import files

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


def shipped_profile(build_id: bytes) -> Profile | None:
    """Return the profile of the kernel with this build id, or None."""
    return next((found for found in shipped_profiles() if found.build_id == build_id), None)
