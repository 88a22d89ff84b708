"""QEMU's shared RAM file: the guest's memory, live, while QEMU runs.

`-object memory-backend-file,share=on,mem-path=FILE` makes it. Physical
address 0 is offset 0; a pseries or powernv machine with one RAM block has
nothing else.
"""

from pathlib import Path

from nestscope.decoders.sources.mapped import FileMemory, MappedFile, Segment


class RamFile(FileMemory):
    """Physical memory of a running machine, through its RAM file.

    Reads see the memory at this moment. Stop the machine for a consistent view.
    """

    kind = "ram"

    def __init__(self, source: Path | MappedFile) -> None:
        """Map the file read-only. A `MappedFile` is taken over.

        Raises:
            SourceFileError: if it is absent, unreadable, empty or not a regular file.
        """
        file = source if isinstance(source, MappedFile) else MappedFile(source)
        super().__init__(file, [Segment(0, 0, file.size)])
