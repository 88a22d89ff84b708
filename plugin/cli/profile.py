"""`nestscope profile`: a kernel's types in a small file."""

from pathlib import Path
from typing import Annotated

import typer

from nestscope.plugin.cli.options import DebugFolder, Modules

app = typer.Typer(help="What is needed of a kernel's types, in a file.", no_args_is_help=True)


@app.command()
def make(
    vmlinux: Annotated[Path, typer.Option(help="The kernel's ELF image.", dir_okay=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    modules: Modules = None,
    debug: DebugFolder = None,
) -> None:
    """Write the profile of a kernel from its BTF or DWARF, or its separate debug files.

    Example: nestscope profile make --vmlinux vmlinux --modules /lib/modules/6.1.0 \
--debug /usr/lib/debug -o 6.1.0.json
    """
    from nestscope.decoders.kernel.files import knowledge_of_files
    from nestscope.decoders.kernel.recorded import make_profile
    from nestscope.plugin.output import new_file

    profile = make_profile(knowledge_of_files(vmlinux, modules, debug))
    with new_file(output) as file:
        file.write(profile.to_json().encode())
    print(f"{output}: {profile.release}, build {profile.build_id.hex()}")
