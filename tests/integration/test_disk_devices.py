"""What is no volume at all, or no device: named as what it is, before anything is read on."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import DiskError, HeaderRefused, TeeAgentError
from tests.support import luks
from tests.support.binds import bind, check

pytestmark = luks.needs_cryptsetup


@pytest.mark.parametrize(
    "damage", [b"", b"LUKS", b"\0" * 100, b"LUKS\xba\xbe\x00\x02" + b"\xff" * 4088, b"SKUL\xba\xbe\x00\x02" * 5000]
)
def test_devices_that_hold_something_else(tmp_path: Path, damage: bytes) -> None:
    image = tmp_path / "x.img"
    image.write_bytes(damage)
    for action in (check, bind):
        with pytest.raises(HeaderRefused):
            action(image)


def test_what_is_no_device(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="no such device"):
        check(tmp_path / "absent")
    with pytest.raises(TeeAgentError, match="neither a block device nor a regular file"):
        check(Path("/dev/null"))
