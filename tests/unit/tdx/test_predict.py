"""RTMR1 and RTMR2 of the next boot: from genuine logs with digests exchanged, and from whole boots made here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from agent.core.errors import Conflict, FormatError, UsageError
from tdx import event as kinds
from tdx import eventlog, pe, predictboot, stubinitrd
from tdx.event import Event
from tdx.predict import Prediction, explain, predict, require_replay
from tdx.predictboot import COMMAND_LINE, INITRD, KERNEL, Parts, Slot
from tdx.predictqemu import LOW_MEMORY, patched
from tests.support import vectors
from tests.unit.tdx import images

OTHER = b"\x5a" * 48
LOGS = {
    "dstack-json": "event_log.json",
    "gcp-cos113-ccel": "ccel.bin",
    "grub-ccel": "ccel.bin",
    "ovmf-ccel": "ccel.bin",
}
DIRECT = ("dstack-json", "ovmf-ccel", "grub-ccel")
"""Logs in which Linux's EFI stub measured command line and initrd."""
KERNEL_1, KERNEL_2 = images.kernel("one"), images.kernel("two", size=0x5000)
GRUB_KERNEL = b"/syslinux/vmlinuz.A\0"
TEXT = "root=/dev/vda1 ro"


def genuine(name: str) -> tuple[tuple[Event, ...], dict[int, bytes]]:
    folder = vectors.ROOT / "eventlog" / name
    if not folder.is_dir():
        pytest.skip(f"no vectors at {vectors.ROOT}")
    expected = vectors.meta(folder)["expected"]
    live = {index: bytes.fromhex(expected[f"rtmr{index}"]) for index in (0, 1, 2)}
    return eventlog.parse((folder / LOGS[name]).read_bytes()).events, live


def by_hand(events: Sequence[Event], register: int, changed: Mapping[int, bytes]) -> bytes:
    value = bytes(48)
    for one in events:
        if one.register == register and one.kind != kinds.NO_ACTION:
            value = hashlib.sha384(value + changed.get(one.number, one.digest)).digest()
    return value


def of_kind(events: Sequence[Event], kind: int, text: bytes = b"") -> Event:
    return [one for one in events if one.kind == kind and text in one.data][-1]


def measured(events: Sequence[Event]) -> dict[str, Event]:
    return {
        KERNEL: of_kind(events, kinds.BOOT_APPLICATION),
        INITRD: of_kind(events, kinds.EVENT_TAG, b"initrd"),
        COMMAND_LINE: of_kind(events, kinds.EVENT_TAG, b"LoadOptions"),
    }


def parts(kernel: bytes, initrd: bytes, options: bytes) -> Parts:
    found = {(Slot.IMAGE, KERNEL): kernel, (Slot.INITRD, INITRD): initrd, (Slot.OPTIONS, COMMAND_LINE): options}
    return Parts("direct", {key: {"form": digest} for key, digest in found.items()})


@pytest.mark.parametrize("name", LOGS)
def test_genuine_logs_replay_and_stay_what_they_are_when_nothing_changes(name: str) -> None:
    events, live = genuine(name)
    same = Parts("direct", {})
    if name == "gcp-cos113-ccel":
        same = Parts("direct", {(Slot.CONTENT, KERNEL): {"file": of_kind(events, kinds.IPL, GRUB_KERNEL).digest}})
    if name in DIRECT:
        digests = [one.digest for one in measured(events).values()]
        same = parts(*digests)
    prediction = predict(events, live, same, same)
    assert prediction.rtmrs == {1: live[1], 2: live[2]}
    assert len(prediction.found) == len(same.digests)
    assert prediction.kept + len(prediction.found) == sum(one.register in (1, 2) for one in events)


@pytest.mark.parametrize("name", DIRECT)
@pytest.mark.parametrize("change", [KERNEL, INITRD, COMMAND_LINE])
def test_a_digest_exchanged_in_a_genuine_log_changes_its_register_only(name: str, change: str) -> None:
    events, live = genuine(name)
    there = measured(events)
    running = parts(there[KERNEL].digest, there[INITRD].digest, there[COMMAND_LINE].digest)
    digests = {part: OTHER if part == change else there[part].digest for part in there}
    coming = parts(digests[KERNEL], digests[INITRD], digests[COMMAND_LINE])
    prediction = predict(events, live, running, coming)
    register = 1 if change == KERNEL else 2
    assert prediction.rtmrs[register] == by_hand(events, register, {there[change].number: OTHER}) != live[register]
    assert prediction.rtmrs[3 - register] == live[3 - register]


@pytest.mark.parametrize("name", LOGS)
def test_a_log_that_does_not_replay_predicts_nothing(name: str) -> None:
    events, live = genuine(name)
    for index in live:
        with pytest.raises(Conflict, match=f"RTMR{index}") as caught:
            predict(events, live | {index: OTHER}, Parts("direct", {}), Parts("direct", {}))
        assert caught.value.code == "conflict.prediction"
    with pytest.raises(Conflict):
        require_replay(events[:-1] if name != "dstack-json" else events[:10], live)


def test_grub_s_commands_are_not_guessed() -> None:
    events, live = genuine("gcp-cos113-ccel")
    kernel = of_kind(events, kinds.IPL, GRUB_KERNEL)
    running = Parts("direct", {(Slot.CONTENT, KERNEL): {"file": kernel.digest}})
    coming = Parts("direct", {(Slot.CONTENT, KERNEL): {"file": OTHER}})
    with pytest.raises(Conflict, match="GRUB"):
        predict(events, live, running, coming)


def test_a_kernel_that_grub_read_and_that_is_another_one_is_not_passed_over() -> None:
    entries = [*images.FIRMWARE, (2, kinds.IPL, OTHER, b"(hd0,gpt1)/initrd.img-6.1\0"), *images.LEAVING]
    events = images.log(entries)
    same = Parts("direct", {})
    with pytest.raises(Conflict, match="initrd"):
        predict(events, images.rtmrs(events), same, same)


def boot(
    kernel: bytes, initrd: bytes | None, text: str, *, form: str = "as it is", end: str = "\0"
) -> tuple[Event, ...]:
    """A direct boot, by its inputs."""
    loaded = kernel if form == "as it is" else dict(patched(kernel, len(initrd or b"")))[form]
    digest = pe.authenticode(pe.parse(loaded))
    return images.direct_boot(digest, initrd, (text + end).encode("utf-16-le"))


@pytest.mark.parametrize("form", ["as it is", *LOW_MEMORY])
@pytest.mark.parametrize("suffix", ["", " initrd=initrd"])
@pytest.mark.parametrize("end", ["", "\0"])
@pytest.mark.parametrize("initrd", [b"initrd one", None])
def test_direct_boots_are_predicted_in_the_form_they_are_made(
    form: str, suffix: str, end: str, initrd: bytes | None
) -> None:
    if initrd is None and form == list(LOW_MEMORY)[1]:
        pytest.skip("without an initrd QEMU's forms do not differ")
    then = b"initrd two" * 999 if initrd else None
    now = boot(KERNEL_1, initrd, TEXT + suffix, form=form, end=end)
    expected = boot(KERNEL_2, then, "quiet" + suffix, form=form, end=end)
    running = predictboot.direct(KERNEL_1, initrd, TEXT, has_initrd=initrd is not None)
    coming = predictboot.direct(KERNEL_2, then, "quiet", has_initrd=then is not None)
    prediction = predict(now, images.rtmrs(now), running, coming)
    assert prediction.rtmrs == {index: images.rtmrs(expected)[index] for index in (1, 2)}
    assert prediction.kept == 4
    assert {one.part for one in prediction.found} == {KERNEL, COMMAND_LINE} | ({INITRD} if initrd else set())


def test_an_initrd_that_is_gone_is_found_by_its_place() -> None:
    now, expected = boot(KERNEL_1, b"gone", TEXT), boot(KERNEL_1, b"new", TEXT)
    running, coming = predictboot.direct(KERNEL_1, None, TEXT), predictboot.direct(KERNEL_1, b"new", TEXT)
    assert predict(now, images.rtmrs(now), running, coming).rtmrs[2] == images.rtmrs(expected)[2]


@pytest.mark.parametrize(
    ("running", "coming", "why"),
    [
        ((KERNEL_2, b"i", TEXT), (KERNEL_1, b"i", TEXT), "kernel"),
        ((KERNEL_1, b"x", TEXT), (KERNEL_1, b"y", TEXT), "initrd"),
        ((KERNEL_1, b"x", TEXT), (KERNEL_1, b"x", TEXT), "initrd"),
        ((KERNEL_1, b"i", "other"), (KERNEL_1, b"i", "more"), "command line"),
        ((KERNEL_1, b"i", TEXT), (KERNEL_1, None, TEXT), "none such"),
    ],
)
def test_what_the_log_does_not_bear_out_is_not_predicted(
    running: tuple[bytes, bytes | None, str], coming: tuple[bytes, bytes | None, str], why: str
) -> None:
    now = boot(KERNEL_1, b"i", TEXT)
    with pytest.raises(Conflict, match=why):
        predict(now, images.rtmrs(now), predictboot.direct(*running), predictboot.direct(*coming))


def test_an_initrd_that_nothing_measures_is_not_predicted() -> None:
    now = boot(KERNEL_1, None, TEXT)
    with pytest.raises(Conflict, match="does not have the initrd"):
        predict(
            now, images.rtmrs(now), predictboot.direct(KERNEL_1, b"i", TEXT), predictboot.direct(KERNEL_1, b"j", TEXT)
        )


def test_an_unknown_command_line_that_stays_is_no_obstacle() -> None:
    now, expected = boot(KERNEL_1, b"i", "odd"), boot(KERNEL_2, b"j", "odd")
    running, coming = predictboot.direct(KERNEL_1, b"i", TEXT), predictboot.direct(KERNEL_2, b"j", TEXT)
    assert predict(now, images.rtmrs(now), running, coming).rtmrs == {
        index: images.rtmrs(expected)[index] for index in (1, 2)
    }


UKI_1 = {
    ".text": b"stub",
    ".osrel": b"ID=a\n",
    ".cmdline": b" ro\nquiet \0",
    ".initrd": b"initrd 1",
    ".linux": KERNEL_1,
}
UKI_2 = {".text": b"stub", ".osrel": b"ID=b\n", ".cmdline": b"ro", ".initrd": b"initrd two", ".linux": KERNEL_2}
OLD_STUB, NEW_STUB = "stub before 257", "stub since 257"


def unified(sections: Mapping[str, bytes], text: str, form: str, *, inner: bool) -> tuple[Event, ...]:
    image = pe.authenticode(pe.parse(images.pe(sections)))
    kernel = pe.authenticode(pe.parse(sections[".linux"])) if inner else None
    initrd = dict(stubinitrd.combined(sections)).get(form)
    return images.unified_boot(image, sections, images.ucs2(text), initrd, inner=kernel)


def predicted(now: tuple[Event, ...], one: Mapping[str, bytes], two: Mapping[str, bytes]) -> Prediction:
    running, coming = predictboot.unified(images.pe(one)), predictboot.unified(images.pe(two))
    return predict(now, images.rtmrs(now), running, coming)


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("form", [OLD_STUB, NEW_STUB])
@pytest.mark.parametrize("more", [{}, {".pcrpkey": b"key", ".uname": b"6.12"}])
def test_unified_images_are_predicted_for_old_and_new_stubs(inner: bool, form: str, more: dict[str, bytes]) -> None:
    one, two = {**UKI_1, **more}, {**UKI_2, **more}
    now = unified(one, "ro quiet", form, inner=inner)
    expected = images.rtmrs(unified(two, "ro", form, inner=inner))
    assert predicted(now, one, two).rtmrs == {index: expected[index] for index in (1, 2)}
    assert not predictboot.is_unified(KERNEL_1)
    assert predictboot.is_unified(images.pe(one))


def test_a_command_line_from_outside_of_the_image_stays() -> None:
    now, expected = unified(UKI_1, "debug", NEW_STUB, inner=False), unified(UKI_2, "debug", NEW_STUB, inner=False)
    running, coming = (predictboot.unified(images.pe(one), "debug") for one in (UKI_1, UKI_2))
    assert predict(now, images.rtmrs(now), running, coming).rtmrs[2] == images.rtmrs(expected)[2]
    with pytest.raises(Conflict, match="command line"):
        predicted(now, UKI_1, UKI_2)


def test_unified_images_that_differ_in_more_than_content() -> None:
    now = unified(UKI_1, "ro quiet", NEW_STUB, inner=False)
    with pytest.raises(Conflict, match=r"sections: \.sbat"):
        predicted(now, UKI_1, {**UKI_2, ".sbat": b"sbat"})
    with pytest.raises(Conflict, match="unified kernel image"):
        predicted(now, UKI_2, UKI_1)
    with pytest.raises(Conflict, match="unified, the next one direct"):
        predict(now, images.rtmrs(now), predictboot.unified(images.pe(UKI_1)), predictboot.direct(KERNEL_1, b"", ""))
    bent = [replace(one, digest=OTHER) if one.digest == images.sha384(b"ID=a\n") else one for one in now]
    with pytest.raises(Conflict, match=r"section \.osrel"):
        predict(bent, images.rtmrs(bent), *(predictboot.unified(images.pe(one)) for one in (UKI_1, UKI_2)))
    credentials = unified({**UKI_1, ".initrd": b"with credentials"}, "ro quiet", NEW_STUB, inner=False)
    stubs = [one if one.kind == kinds.EVENT_TAG else mine for one, mine in zip(credentials, now, strict=True)]
    with pytest.raises(Conflict, match="another initrd"):
        predict(stubs, images.rtmrs(stubs), *(predictboot.unified(images.pe(one)) for one in (UKI_1, UKI_2)))


def test_what_a_log_explains() -> None:
    now = unified(UKI_1, "ro quiet", NEW_STUB, inner=True)
    found = explain(now, predictboot.unified(images.pe(UKI_1)))
    assert [one.part for one in found] == [
        "unified kernel image",
        *(".osrel", ".cmdline", ".initrd", ".linux", "kernel in the image"),
        *("command line", "initrd"),
    ]
    assert explain(now, predictboot.direct(KERNEL_2, b"x", "y")) == ()


def test_what_is_no_unified_image() -> None:
    for data in (KERNEL_1, b"\x7fELF", b""):
        with pytest.raises(FormatError):
            predictboot.unified(data)
    two = images.pe({".linux": KERNEL_1, ".xxxxx": b"k"}).replace(b".xxxxx\0\0", b".linux\0\0")
    with pytest.raises(FormatError, match="profiles"):
        predictboot.unified(two)


@pytest.mark.parametrize("text", ["a\0b", "x" * (predictboot.MAX_COMMAND_LINE + 1)])
def test_impossible_command_lines(text: str) -> None:
    with pytest.raises(UsageError):
        predictboot.direct(None, None, text)


def test_the_stub_s_archive() -> None:
    # SHA-256 as stated by an independent implementation (bottlerocket-os, attestation of UKIs) for this os-release.
    found = stubinitrd.archive("os-release", b"ID=bottlerocket-test\nVERSION_ID=0.0\n")
    assert hashlib.sha256(found).hexdigest() == "ce5bfa54adc1aba0973b10e43e2e45ca7037d11fc27ca066fe7fa293bdd86d08"


def test_kernels_that_qemu_does_not_patch() -> None:
    assert list(patched(images.kernel("k", version=0x202), 0)) == []
    assert list(patched(b"MZ" + bytes(9000), 0)) == []
    assert list(patched(KERNEL_1, 0xFFFFFFF0)) == []
    old = images.kernel("k", version=0x20A)
    assert len(list(patched(old, 4096))) == 2
