"""What a bundle carries beside the evidence: what came with it, then what the endorsements' folder has."""

from __future__ import annotations

import stat
from pathlib import Path

from agent.core.bundle_parts import MAX_OBJECTS
from agent.core.errors import ConfigError
from agent.core.model import Endorsements, Evidence, Tee
from agent.daemon.keys import Complete
from agent.probe import endorsements_of
from agent.verify.endorsements import BOUNDS
from agent.verify.evidence import unpadded
from agent.verify.shelf import Shelf


def completer(folder: Path) -> Complete:
    """For bundles: what came with the evidence, then what ``folder`` has. A folder that is missing has nothing."""

    def complete(evidence: Evidence) -> tuple[bytes, Endorsements]:
        found = endorsements_of(evidence)
        if _is_there(folder):
            found = found.merged(Shelf.load(folder, BOUNDS).select(evidence.blob))
        if max(len(found.certificates), len(found.crls)) > MAX_OBJECTS:
            raise ConfigError(
                f"{folder}: a bundle carries {MAX_OBJECTS} certificates and {MAX_OBJECTS} CRLs at the most",
                hint="leave there what belongs to this machine only",
            )
        if evidence.tee is Tee.SNP:
            return evidence.blob, Endorsements(found.certificates, found.crls)
        return unpadded(evidence.blob), found

    return complete


def _is_there(folder: Path) -> bool:
    try:
        return stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(
            f"evidence.endorsements: {folder}: {error.strerror}",
            hint="the signer's user must be able to read it, and to search the folders above",
        ) from error
