"""A raw image of RAM (`pmemsave` from address 0, or a copy of a RAM file)."""

from pathlib import Path

from nestscope.decoders.sources.mapped import FileMemory, MappedFile, Segment


class RawImage(FileMemory):
    """Physical memory from a raw image: physical address 0 is offset 0."""

    kind = "raw"

    def __init__(self, source: Path | MappedFile) -> None:
        """Map the file read-only. A `MappedFile` is taken over.

        Raises:
            SourceFileError: if it is absent, unreadable, empty or not a regular file.
        """
        file = source if isinstance(source, MappedFile) else MappedFile(source)
        super().__init__(file, [Segment(0, 0, file.size)])
