"""Whether an edit left exactly what was intended: the header before, the change, the header after (I5). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.core.errors import HeaderTampered
from agent.disk.cryptsetup import AREA_KEY_BITS, HASH, ITERATIONS
from agent.disk.fields import CIPHER
from agent.disk.header import Header
from agent.disk.keyslot import AF_STRIPES


def verify(
    before: Header,
    after: Header,
    *,
    added: int | None = None,
    killed: int | None = None,
    tokens: Mapping[int, Mapping[str, Any] | None] | None = None,
) -> None:
    """Raises HeaderTampered unless ``after`` is ``before`` with this change and nothing else.

    ``added`` and ``killed`` are keyslots; ``tokens`` maps a number to its new value, None meaning removed.
    """
    want, got = _plain(before), _plain(after)
    if added is not None:
        want["keyslots"][str(added)] = got["keyslots"].get(str(added))
        want["digests"][str(before.metadata.volume_digest.number)]["keyslots"].add(str(added))
        if not is_own_kind(after, added):
            raise _tampered("the new keyslot has other parameters than asked for")
    if killed is not None:
        want["keyslots"].pop(str(killed), None)
        for holder in (*want["digests"].values(), *want["tokens"].values()):
            holder["keyslots"].discard(str(killed))
    for number, value in (tokens or {}).items():
        want["tokens"].pop(str(number), None)
        if value is not None:
            want["tokens"][str(number)] = _with_set(value)
    if different := sorted(name for name in want if want[name] != got[name]):
        raise _tampered(f"{', '.join(different)} changed in another way than we did")
    if after.binary.sequence <= before.binary.sequence:
        raise _tampered("the sequence number did not grow")


def is_own_kind(header: Header, number: int) -> bool:
    """Whether keyslot ``number`` holds the volume key with the parameters that we use."""
    slot = header.metadata.keyslots.get(number)
    if slot is None or number not in header.metadata.volume_digest.keyslots:
        return False
    kdf, area, split = slot.document["kdf"], slot.document["area"], slot.document["af"]
    return (
        (kdf["type"], kdf.get("hash"), kdf.get("iterations")) == ("pbkdf2", HASH, ITERATIONS)
        and (area["encryption"], area["key_size"] * 8) == (CIPHER, AREA_KEY_BITS)
        and (split["hash"], split["stripes"]) == (HASH, AF_STRIPES)
    )


def _plain(header: Header) -> dict[str, Any]:
    """The header's values, lists of keyslots being sets: their order means nothing."""
    document = header.metadata.document
    return {
        "fixed part": (header.uuid, header.binary.size, header.binary.label, header.binary.subsystem),
        "keyslots": dict(document["keyslots"]),
        "tokens": {number: _with_set(value) for number, value in document["tokens"].items()},
        "segments": document["segments"],
        "digests": {number: _with_set(value) for number, value in document["digests"].items()},
        "config": document["config"],
    }


def _with_set(value: Mapping[str, Any]) -> dict[str, Any]:
    return {**value, "keyslots": set(value["keyslots"])}


def _tampered(what: str) -> HeaderTampered:
    return HeaderTampered(
        f"the header is not what our edit should have left: {what}",
        hint="something else writes to this disk; compare luksDump with a header backup before trying again",
    )
