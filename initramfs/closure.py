"""What the boot agent needs in an initramfs: computed from what it really imports, and put there.

Used by the initramfs-tools hook; ``python3 -I -B closure.py list`` shows the modules. The measured copies of
configuration, API key and certificate authorities go in here too, so that the hook stays a list of copies.

Standard modules keep their place, all others go to /usr/lib/tee-agent; both as .pyc without source, which load four
times faster in emulation. Extension modules are printed, "SOURCE TARGET" a line, for the hook knows their libraries.
"""

from __future__ import annotations

import importlib.util
import os
import py_compile
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
"""What has the packages agent and snp: the repository, or /usr/lib/tee-agent."""
PRIVATE = Path("usr/lib/tee-agent")
"""Where they go in the image."""
CONFIG = Path("etc/tee-agent/tee-agent.toml")
CRYPTTAB = Path("cryptroot/crypttab")
PACKAGES = ("cryptography", "rfc8785", "_cffi_backend")
"""What is not ours and not the standard library's."""
ENVIRONMENT = {"CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "1", "LANG": "C", "PATH": "/usr/bin:/bin"}
_SECONDS = 120

# Runs in an interpreter as bare as the one in the image. bcrypt is there for OpenSSH keys only. Codecs are imported
# when they are first used: by us, by http.client, by getaddrinfo.
_LISTING = """
import sys
sys.modules["bcrypt"] = None
sys.path += sys.argv[1:]
import importlib
import encodings.ascii, encodings.idna, encodings.latin_1
import agent.boot, agent.boot.unlocking, agent.device.sev, agent.device.tdx, snp.certtable
for name in agent.boot.STEPS.values():
    importlib.import_module(name)
for name, module in sorted(sys.modules.items()):
    spec = getattr(module, "__spec__", None)
    path = getattr(module, "__file__", None)
    if path and (spec is None or spec.origin != "frozen" or name == "os"):
        print(name, path, sep="\\t")
"""


@dataclass(frozen=True)
class Module:
    """A module and its file."""

    name: str
    path: Path

    @property
    def is_code(self) -> bool:
        return self.path.suffix == ".py"


class Missing(Exception):
    """A file that has to go into the image and is not there."""


def modules() -> list[Module]:
    """All modules that early boot imports, in order of name. Raises Missing."""
    argv = [sys.executable, "-I", "-S", "-B", "-c", _LISTING, *map(str, (HERE, *_folders()))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, env=ENVIRONMENT, check=False)
    if done.returncode:
        raise Missing(f"agent.boot can't be imported:\n{done.stderr}")
    return [Module(name, Path(path)) for name, path in (line.split("\t") for line in done.stdout.splitlines())]


def _folders() -> list[Path]:
    """Where this interpreter has PACKAGES: Debian's dist-packages, or a virtual environment's."""
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise Missing(f"Python module {name} is missing")
        origin = Path(spec.origin)
        found.append(origin.parents[1] if origin.stem == "__init__" else origin.parent)
    return list(dict.fromkeys(found))


def place(module: Module) -> Path:
    """Where a module goes, from the image's root."""
    standard = Path(os.__file__).resolve().parent
    if module.path.resolve().is_relative_to(standard) and not _is_private(module.path):
        return module.path.resolve().relative_to("/").with_suffix(".pyc" if module.is_code else module.path.suffix)
    folder = PRIVATE.joinpath(*module.name.split("."))
    if module.path.name == "__init__.py":
        return folder / "__init__.pyc"
    return folder.with_suffix(".pyc") if module.is_code else folder.parent / module.path.name


def _is_private(path: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(path.parts))


def install(image: Path, system: Path = Path("/")) -> Iterator[str]:
    """Write code and the configuration of ``system`` into ``image``.

    Yields what the hook has to copy, "SOURCE TARGET"; nothing when there is nothing to open by attestation.

    Raises Missing, and what agent.settings.load raises.
    """
    if not (system / CONFIG).exists():
        warn(f"/{CONFIG} is not there yet: this initramfs unlocks nothing by attestation")
        return
    if not _configuration(image, system):
        return
    for module in modules():
        target = place(module)
        if module.is_code:
            _compile(module.path, image / target)
        else:
            yield f"{module.path} /{target}"


def _compile(source: Path, target: Path) -> None:
    """Without times in it, so that the same input gives the same image."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), str(target), dfile=str(source), doraise=True, invalidation_mode=mode)


def _configuration(image: Path, system: Path) -> bool:
    """The measured files. False when no volume is for the boot."""
    early = importlib.import_module("agent.boot.early")
    config = importlib.import_module("agent.settings").load(system / CONFIG)
    volumes = early.chosen(config.volumes, early.crypttab_names(image / CRYPTTAB))
    if not volumes:
        warn("no [[volume]] of tee-agent.toml is in the initramfs's crypttab: nothing is unlocked by attestation")
        return False
    tas = importlib.import_module("agent.session").required(config)
    for path in (CONFIG, tas.api_key_file, tas.ca_file):
        if path is not None:
            _copy(path, image, system)
    if tas.ca_file is not None:
        built = os.environ.get("SOURCE_DATE_EPOCH") or str(int(time.time()))
        _write(image / "etc/tee-agent/build-time", f"{built}\n")
    _write(image / PRIVATE / "stop", f"{config.boot.stop}\n")
    # A hibernation image is somebody's kernel memory, and swap may be the host's: never resumed from.
    _write(image / "conf/conf.d/tee-agent", "noresume=y\n")
    _try_command_line(early, config)
    for volume in volumes:
        warn(f"volume {volume.name} is opened by attestation, else: {volume.fallback}")
    return True


def _try_command_line(early: Any, config: Any) -> None:
    """The next boot most likely has the command line of this one (unless this is a build, elsewhere)."""
    errors = importlib.import_module("agent.core.errors")
    try:
        early.command_line(config)
    except errors.TeeAgentError as error:
        warn(f"WARNING: as this machine runs now, the next boot would stop: {error.message}")


def _copy(path: Path, image: Path, system: Path) -> None:
    inside = str(path).lstrip("/")
    source, target = system / inside, image / inside
    try:
        content, mode = source.read_bytes(), source.stat().st_mode
    except OSError as error:
        raise Missing(f"{source}: {error.strerror}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    target.chmod(mode & 0o755)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def warn(text: str) -> None:
    sys.stderr.write(f"tee-agent: {text}\n")


def main(argv: Sequence[str]) -> int:
    """``install IMAGE`` or ``list``. Returns the exit status."""
    sys.path.insert(0, str(HERE))
    errors = importlib.import_module("agent.core.errors")
    try:
        if argv[:1] == ["install"]:
            lines = list(install(Path(argv[1])))
        else:
            lines = [f"{module.name}\t{module.path}" for module in modules()]
    except (Missing, errors.TeeAgentError) as error:
        warn(str(error))
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
