"""Numbers for people: grouped counts and binary sizes."""


def count(number: int) -> str:
    """Return a count with its thousands grouped by a space, as `16 777 216`."""
    return f"{number:,}".replace(",", " ")


def counted(number: int, thing: str, things: str = "") -> str:
    """Return how many of a thing there are, as `1 VM` or `20 VMs`; `things` is its plural."""
    return f"{count(number)} {thing if number == 1 else things or thing + 's'}"


def size(length: int) -> str:
    """Return a length in bytes in the largest binary unit that divides it, as `64 KiB`."""
    unit = 0
    names = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    while length and length % 1024 == 0 and unit < len(names) - 1:
        length //= 1024
        unit += 1
    return f"{count(length)} {names[unit]}"
