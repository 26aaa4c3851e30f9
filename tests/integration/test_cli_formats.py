"""`tee-agent verify` over key documents, JWS, COSE_Sign1 and EAT: what it demands, what it prints, how it exits."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.cli import main
from agent.core import eat
from agent.core.model import Tee
from agent.verify.evidence import parse_fields
from sim.export import export
from tests.support.formats import AUDIENCE, CONTEXT, NONCE, PAYLOAD, Party
from tests.support.simulator import machine

AT = datetime.now(UTC).replace(microsecond=0)
KINDS = {
    "key": "key document",
    "jws": "JWS",
    "cose": "COSE_Sign1",
    "detached": "COSE_Sign1",
    "eat.json": "EAT",
    "eat.cbor": "EAT",
    "ssh": "ssh signature",
}


@dataclass(frozen=True)
class Files:
    """One file of each kind, and the words that name its workload."""

    folder: Path
    workload: tuple[str, ...]

    def words(self, name: str, *more: str, workload: bool = True) -> tuple[str, ...]:
        given = self.workload if workload else ()
        root = str(self.folder / "endorsements" / "root.pem")
        return ("verify", str(self.folder / name), "--trust-root", root, *given, *self.needed(name), *more)

    def needed(self, name: str) -> tuple[str, ...]:
        if name in ("jws", "cose"):
            return ("--key-document", str(self.folder / f"{name}.key"))
        if name == "ssh":
            return ("--key-document", str(self.folder / "ssh.key"), "--payload", str(self.folder / "payload"))
        if name == "detached":
            return ("--key-document", str(self.folder / "cose.key"), "--payload", str(self.folder / "payload"))
        return ()


@pytest.fixture(scope="module", params=["snp", "tdx"])
def files(request: pytest.FixtureRequest, pki_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder, hardware = tmp_path_factory.mktemp("formats"), machine(request.param, pki_state)
    export(hardware, folder / "endorsements")
    parties = {use: Party.on(hardware, AT, use) for use in ("raw", "jws", "cose", "eat", "ssh")}
    made = {
        "key": parties["raw"].document(),
        "jws": parties["jws"].jws(),
        "jws.key": parties["jws"].document(),
        "cose": parties["cose"].cose(),
        "detached": parties["cose"].cose(detached=True),
        "cose.key": parties["cose"].document(),
        "eat.json": parties["eat"].eat(AT, eat.JSON),
        "eat.cbor": parties["eat"].eat(AT, eat.CBOR),
        "ssh": parties["ssh"].ssh(),
        "ssh.key": parties["ssh"].document(),
        "payload": PAYLOAD,
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    attachments = parties["raw"].attachments()
    fields = parse_fields(attachments.blob)[2]
    if attachments.tee is Tee.SNP:
        return Files(folder, ("--measurement", fields["measurement"]))
    rtmrs = [word for index in range(3) for word in ("--rtmr", f"{index}={fields[f'rtmr{index}']}")]
    return Files(folder, ("--mrtd", fields["mr_td"], *rtmrs))


def run(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> tuple[int, str, str]:
    status = main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("name", KINDS)
def test_it_tells_what_a_file_is_and_judges_it(files: Files, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, files.words(name))
    assert status == 0
    assert out.splitlines()[-1] == f"{KINDS[name]}: valid, under an ADDED ROOT"
    assert "ok   statement in force" in out
    assert "- freshness: the key's evidence may be as old as its statement" in out
    status, out, _ = run(capsys, files.words(name, "--json"))
    said = json.loads(out)
    assert (status, said["valid"], said["kind"]) == (0, True, KINDS[name])
    status, out, _ = run(capsys, files.words(name, "--quiet"))
    assert (status, out) == (0, "")


@pytest.mark.parametrize("name", KINDS)
def test_a_workload_has_to_be_said_and_must_fit(files: Files, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, files.words(name, workload=False))
    assert status == 64
    assert "which workload" in err
    status, out, _ = run(capsys, files.words(name, "--any-workload", workload=False))
    assert (status, "workload: any was accepted" in out) == (0, True)
    words = ("verify", str(files.folder / name), *files.workload, *files.needed(name))
    status, out, err = run(capsys, words)
    assert (status, out.splitlines()[0]) == (65, f"{KINDS[name]}: REFUSED")
    assert "verify.untrusted-root" in run(capsys, (*words, "--json"))[1]


@pytest.mark.parametrize(
    ("name", "option", "good"),
    [
        ("key", ("--use", "raw"), True),
        ("key", ("--use", "jws"), False),
        ("key", ("--key", "00" * 32), False),
        ("jws", ("--context", CONTEXT), True),
        ("jws", ("--context", "other"), False),
        ("jws", ("--audience", AUDIENCE), True),
        ("cose", ("--audience", "other"), False),
        ("cose", ("--context", CONTEXT), True),
        ("eat.json", ("--nonce", NONCE.hex()), True),
        ("eat.cbor", ("--nonce", NONCE.hex()), True),
        ("eat.json", ("--nonce", "00" * 8), False),
        ("eat.cbor", ("--audience", "other"), False),
        ("eat.cbor", ("--audience", AUDIENCE), True),
        *((name, ("--storage", "memory"), True) for name in KINDS),
        *((name, ("--storage", "tas"), False) for name in KINDS),
    ],
)
def test_what_else_it_must_say(
    files: Files, name: str, option: tuple[str, str], good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, files.words(name, *option))
    assert status == (0 if good else 65)
    assert (f"{KINDS[name]}: REFUSED" in out) is not good


@pytest.mark.parametrize("name", ["jws", "cose"])
def test_the_payload_is_compared(files: Files, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, files.words(name, "--payload", str(files.folder / "payload")))
    assert (status, "same as" in out) == (0, True)
    assert "not compared" in run(capsys, files.words(name))[1]
    assert run(capsys, files.words(name, "--payload", str(files.folder / "key")))[0] == 65


def test_a_detached_payload_must_be_there(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    words = tuple(word for word in files.words("detached") if "payload" not in word)
    status, _, err = run(capsys, words)
    assert (status, "the payload is detached" in err) == (65, True)


@pytest.mark.parametrize(
    ("name", "more", "problem"),
    [
        ("key", ("--payload", "payload"), "--payload means nothing"),
        ("key", ("--nonce", "00" * 16), "--nonce means nothing"),
        ("key", ("--key-document", "key"), "--key-document means nothing"),
        ("jws", ("--nonce", "00" * 16), "--nonce means nothing"),
        ("jws", ("--use", "jws"), "--use means nothing"),
        ("eat.json", ("--payload", "payload"), "--payload means nothing"),
        ("eat.cbor", ("--context", "x"), "--context means nothing"),
        ("eat.cbor", ("--nonce", "00" * 7), "not 8 to 64 bytes"),
        ("eat.json", ("--audience", "x" * 257), "more than 256 bytes"),
    ],
)
def test_options_without_meaning(
    files: Files, name: str, more: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, files.words(name, *more))
    assert (status, problem in err) == (64, True), err


def test_a_key_document_is_asked_for(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("jws", "cose"):
        status, _, err = run(capsys, ("verify", str(files.folder / name), *files.workload))
        assert (status, "--key-document FILE is needed" in err) == (64, True)
        other = "cose.key" if name == "jws" else "jws.key"
        words = ("verify", str(files.folder / name), *files.workload, "--key-document", str(files.folder / other))
        status, out, _ = run(capsys, words)
        assert (status, "FAIL kid" in out) == (65, True)


def test_from_standard_input(files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    token = (files.folder / "eat.cbor").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(token)))
    words = ("verify", "-", *files.words("eat.cbor")[2:])
    assert run(capsys, words)[0] == 0
    status, _, err = run(capsys, ("verify", "-", "--key-document", "-", "--any-workload"))
    assert (status, "can't both come from standard input" in err) == (64, True)


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"eyJ", "JWS", 64),
        (b"eyJhbGciOiJub25lIn0.e30.", "JWS", 64),
        (b"\xd2\x84", "COSE_Sign1", 64),
        (b"{}", "bundle", 65),
        (b"[]", "bundle", 65),
        (b'{"type":"tee-agent/key/v1"}', "key document", 65),
        (b"", "bundle", 65),
        (bytes(3 << 20), "more than", 65),
    ],
)
def test_what_is_nothing_whole(
    data: bytes, kind: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(data)
    found, out, err = run(capsys, ("verify", str(tmp_path / "file"), "--any-workload", "--json"))
    assert found == status
    assert kind in out + err
    assert status == 64 or json.loads(out)["error"]["code"].startswith("format")


def test_a_line_end_is_not_part_of_it(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_bytes((files.folder / "eat.json").read_bytes() + b"\n")
    status, _, err = run(capsys, ("verify", str(tmp_path / "token"), "--any-workload"))
    assert (status, "without a line end" in err) == (65, True)
