"""What a log says of an initrd, and images at the edge of what is known."""

from __future__ import annotations

import pytest

from tdx import event as kinds
from tdx import pe, predictboot
from tdx.predict import explain, mentions_initrd
from tdx.predictboot import UNIFIED, Slot
from tests.unit.tdx import images

MENTIONS = {
    "what Linux got": (2, kinds.EVENT_TAG, bytes(48), images.tagged(0x8F3B22EC, "Linux initrd")),
    "a file": (2, kinds.IPL, bytes(48), b"/boot/initrd.img-6.12\0"),
    "a section": (2, kinds.IPL, bytes(48), ".initrd\0".encode("utf-16-le")),
}
SILENT = {
    "command line": (2, kinds.EVENT_TAG, bytes(48), images.tagged(0x8F3B22ED, "LOADED_IMAGE::LoadOptions")),
    "another register": (1, kinds.IPL, bytes(48), b"/boot/initrd.img-6.12\0"),
    "another tag": (2, kinds.EVENT_TAG, bytes(48), images.tagged(0x8F3B22EE, "Linux initrd")),
    "no tag": (2, kinds.EVENT_TAG, bytes(48), b"\xec"),
    "another kind": (2, kinds.SEPARATOR, bytes(48), b"initrd"),
}


@pytest.mark.parametrize("name", [*MENTIONS, *SILENT])
def test_an_initrd_is_mentioned(name: str) -> None:
    events = images.log([*images.FIRMWARE, {**MENTIONS, **SILENT}[name]])
    assert mentions_initrd(events) is (name in MENTIONS)


def test_a_unified_image_whose_kernel_is_no_image() -> None:
    parts = predictboot.unified(images.pe({".linux": b"not an image"}))
    assert {slot for slot, _ in parts.digests} == {Slot.IMAGE, Slot.INITRD, Slot.CONTENT}
    assert not parts.digests[Slot.INITRD, predictboot.INITRD]


def test_an_unsigned_image_of_odd_size_is_found_in_either_form() -> None:
    image = images.pe({".linux": b"k"}, tail=b"odd")
    parts = predictboot.unified(image)
    for padded in (False, True):
        digest = pe.authenticode(pe.parse(image), padded=padded)
        (found,) = explain(images.log([images.image_event(digest)]), parts)
        assert (found.part, found.register) == (UNIFIED, 1)


def test_an_event_of_another_kind_explains_nothing() -> None:
    parts = predictboot.direct(images.kernel("k"), b"initrd", "ro")
    digest = images.sha384(b"initrd")
    assert explain(images.log([(2, kinds.SEPARATOR, digest, b""), (1, kinds.IPL, digest, b"")]), parts) == ()
