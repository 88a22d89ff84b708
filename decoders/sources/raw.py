"""A raw image of RAM (`pmemsave` from address 0, or a copy of a RAM file)."""

from pathlib import Path

from nestscope.decoders.sources.mapped import FileMemory, MappedFile, Segment


class RawImage(FileMemory):
    """Physical memory from a raw image: physical address 0 is offset 0."""

    kind = "raw"

    def __init__(self, path: Path) -> None:
        """Map `path` read-only.

        Raises:
            SourceFileError: if it is absent, unreadable, empty or not a regular file.
        """
        file = MappedFile(path)
        super().__init__(file, [Segment(0, 0, file.size)])
