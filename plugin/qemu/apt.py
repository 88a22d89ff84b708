"""A private apt root: packages of another release and architecture, without root.

It uses the machine's own apt configuration (proxies, credentials), but lists,
cache and package status of its own, so the system is neither read for what is
installed nor changed. Signatures are verified with the system's Debian archive
keyring.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.sources import AptSource, for_release, read_sources

OWN_KERNEL_HINT = "or bring your own kernel with --vmlinux and --modules"
_KEYRINGS = tuple(
    Path("/usr/share/keyrings") / f"debian-archive-keyring.{kind}" for kind in ("gpg", "pgp")
)
_OS_RELEASE = Path("/etc/os-release")
_HELPER = "/usr/lib/apt/apt-helper"
_QUERY_SECONDS = 60
_UPDATE_SECONDS = 300
_DOWNLOAD_SECONDS = 1800
_END_SECONDS = 5

Say = Callable[[str], None]


def say_on_terminal(text: str) -> None:
    """Print progress to standard error if that is a terminal."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning to standard error."""
    print(f"nestscope: warning: {text}", file=sys.stderr)


def parse_depends(text: str) -> list[str]:
    """Return the real packages that `apt-cache depends` lists as Depends or PreDepends."""
    found = re.findall(r"^ *\|?(?:Pre)?Depends: ([^<\s]\S*)$", text, re.MULTILINE)
    return list(dict.fromkeys(name.split(":")[0] for name in found))


def parse_shell(text: str) -> dict[str, str]:
    """Return the variables of `apt-config shell` output (`NAME='value'` lines)."""
    return dict(re.findall(r"^(\w+)='(.*)'$", text, re.MULTILINE))


def complaints(stderr: str) -> list[str]:
    """Return apt's errors and warnings, without their repetition of what follows from them."""
    lines = [line for line in stderr.splitlines() if re.match(r"[EW]: ", line)]
    return list(dict.fromkeys(lines))


def machine_release(os_release: str) -> str:
    """Return VERSION_CODENAME of an os-release file's text, or ""."""
    found = re.search(r'^VERSION_CODENAME="?([\w.-]+)"?$', os_release, re.MULTILINE)
    return found[1] if found else ""


def parse_uris(text: str) -> list[tuple[str, str, str]]:
    """Return `(uri, file name, hash)` of each line of `apt-get --print-uris` output."""
    return re.findall(r"^'([^']+)' (\S+) \d+ (\w+:[0-9a-f]+)$", text, re.MULTILINE)


def _end(child: "subprocess.Popen[str]") -> None:
    """End a command of apt and its methods; interrupted like this they can go on later."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=_END_SECONDS)
            return


def _execute(
    command: Sequence[str], seconds: int, folder: Path | None = None
) -> tuple[int, str, str]:
    """Run a command of apt; return its status, standard output and standard error."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except FileNotFoundError as problem:
        raise LabError(
            f"this machine has no {command[0]}: use a Debian, {OWN_KERNEL_HINT}"
        ) from problem
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as problem:
        _end(child)
        raise LabError(f"{command[0]} did not end within {seconds} s: try again") from problem
    except BaseException:
        _end(child)
        raise
    return child.returncode, out, err


def system_sources(release: str) -> list[AptSource]:
    """Return the machine's Debian sources with the suite changed to `release`.

    Raises:
        LabError: if there is no apt, or none of its sources is Debian's archive.
    """
    query = ("L", "Dir::Etc::sourcelist/f", "P", "Dir::Etc::sourceparts/d")
    _, out, _ = _execute(["apt-config", "shell", *query], _QUERY_SECONDS)
    places = parse_shell(out)
    found = read_sources(Path(places.get("L", "/")), Path(places.get("P", "/nonexistent")))
    try:
        own = machine_release(_OS_RELEASE.read_text())
    except OSError:
        own = ""
    sources = for_release(found, own, release) if own else []
    if not sources:
        raise LabError(
            f"this machine's apt has no Debian archive to take {release} from: add one, "
            + OWN_KERNEL_HINT
        )
    return sources


def _keyring() -> Path:
    for path in _KEYRINGS:
        if path.exists():
            return path
    raise LabError("the Debian archive keyring is missing: install debian-archive-keyring")


class PrivateApt:
    """An apt root below `root` for one `release` and `architecture`."""

    def __init__(self, root: Path, release: str, architecture: str, say: Say) -> None:
        """Lay the root out.

        Raises:
            LabError: if the machine's apt cannot serve.
        """
        self._root = root
        self._release = release
        self._say = say
        self._architecture = architecture
        self.archives = root / "archives"
        for folder in (root / "lists" / "partial", self.archives / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        (root / "status").touch()
        keyring = _keyring()
        lines = [source.line(architecture, keyring) for source in system_sources(release)]
        (root / "sources.list").write_text("\n".join(lines) + "\n")
        (root / "apt.conf").write_text(self._configuration())

    def _configuration(self) -> str:
        # Read after the system's own files, so it has the last word. The hooks
        # are cleared because they act on the system (container images have some).
        return f"""#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "{self._architecture}";
APT::Architectures {{ "{self._architecture}"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::AllowInsecureRepositories "false";
Dir::State "{self._root}";
Dir::State::lists "{self._root}/lists";
Dir::State::status "{self._root}/status";
Dir::State::extended_states "{self._root}/extended_states";
Dir::Cache "{self._root}";
Dir::Cache::archives "{self.archives}";
Dir::Cache::pkgcache "{self._root}/pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "{self._root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Log "{self._root}/log";
"""

    def _apt(self, tool: str, *arguments: str, seconds: int) -> tuple[int, str, str]:
        command = [tool, "-c", str(self._root / "apt.conf"), *arguments]
        return _execute(command, seconds, self._root)

    def update(self) -> None:
        """Fetch the package lists. A suite that fails is a warning; see `kernel_packages`."""
        self._say(f"fetching the package lists of {self._release}")
        _, _, err = self._apt("apt-get", "-q", "update", seconds=_UPDATE_SECONDS)
        for line in complaints(err):
            warn(f"apt: {line}")

    def depends(self, package: str) -> list[str] | None:
        """Return what `package` depends on directly, or None if no list knows it."""
        status, out, _ = self._apt("apt-cache", "depends", package, seconds=_QUERY_SECONDS)
        return None if status or not out.strip() else parse_depends(out)

    def size(self, package: str) -> int | None:
        """Return the bytes to download for `package`, or None if no list knows it."""
        status, out, _ = self._apt("apt-cache", "show", package, seconds=_QUERY_SECONDS)
        found = re.search(r"^Size: (\d{1,15})$", out, re.MULTILINE)
        return None if status or found is None else int(found[1])

    def closure(self, packages: Sequence[str]) -> list[str]:
        """Return `packages` and everything that they need on an empty system.

        Raises:
            LabError: if the lists do not know them, or something they need.
        """
        # A simulation: it needs no right to install, and names what is downloaded already, too.
        options = ("-q", "--simulate", "--no-install-recommends", "install")
        status, out, err = self._apt("apt-get", *options, *packages, seconds=_QUERY_SECONDS)
        found = re.findall(r"^Inst ([\w.+-]+)", out, re.MULTILINE)
        if status or not found:
            why = (complaints(err) or ["no message"])[0]
            raise LabError(f"apt cannot resolve {', '.join(packages)} ({why}): try again later")
        return found

    def download(self, packages: Sequence[str]) -> list[Path]:
        """Download `packages` and return the files; an interrupted download goes on.

        Raises:
            LabError: if apt cannot download one (with apt's own words).
        """
        names = ", ".join(packages)
        self._say(f"downloading {names}")
        # Not from the folder of the archives: what lies there already would be left out.
        query = ("-q", "--print-uris", "download", *packages)
        status, out, err = self._apt("apt-get", *query, seconds=_QUERY_SECONDS)
        wanted = parse_uris(out)
        if status or len(wanted) != len(packages):
            why = (complaints(err) or ["no message"])[0]
            raise LabError(f"apt does not know where {names} are ({why}): try again later")
        files: list[Path] = []
        for uri, name, checksum in wanted:
            # `apt-get download` would start anew; the helper goes on with what is there.
            file = self.archives / Path(name).name
            words = ("download-file", uri, str(file), checksum)
            status, _, err = self._apt(_HELPER, *words, seconds=_DOWNLOAD_SECONDS)
            if status:
                why = (complaints(err) or ["no message"])[0]
                raise LabError(f"apt could not download {name} ({why}): try again later")
            files.append(file)
        return files
