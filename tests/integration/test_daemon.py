"""The daemon whole: three processes, a simulated TEE, curl, and bundles that a stranger verifies."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.bundle import decode
from agent.core.errors import BindingMismatch, VerificationError
from agent.daemon.api import BUNDLE_TYPE, DIGEST_TYPE
from tests.support.daemon import (
    CLI,
    GROUP,
    MEMBER,
    ROOT,
    STRANGER,
    Daemon,
    as_user,
    dial,
    open_folder,
    run,
    running_daemon,
)
from tests.support.simulator import running_simulator

pytestmark = pytest.mark.fuse
NONCE = bytes(range(32))


@pytest.fixture(scope="module", params=["snp", "tdx"])
def daemon(request: pytest.FixtureRequest, pki_state: Path) -> Iterator[Daemon]:
    with (
        open_folder() as folder,
        running_simulator(request.param, folder, pki_state) as simulator,
        running_daemon(simulator, folder, audience="rp.example") as running,
    ):
        yield running


def test_curl_signs_and_a_stranger_verifies(daemon: Daemon, tmp_path: Path) -> None:
    payload = os.urandom(3 << 20)
    (tmp_path / "payload").write_bytes(payload)
    status, bundle = daemon.curl(
        "--data-binary", f"@{tmp_path / 'payload'}", "http://agent/v1/sign?context=a%20b&audience=x"
    )
    assert status == 200
    verdict = daemon.verify(bundle, payload, context="a b", audience="x")
    assert verdict.verified.added_root
    assert verdict.bundle.attachments.statement.audience == "rp.example"
    assert verdict.bundle.attachments.statement.tas_nonce is None
    with pytest.raises(VerificationError):
        daemon.verify(bundle, payload + b"x")


def test_payload_that_looks_like_a_digest_is_a_payload(daemon: Daemon) -> None:
    said = {"alg": "sha-512", "digest": hashlib.sha512(b"else").hexdigest(), "size": 4}
    payload = json.dumps(said).encode()
    as_payload = daemon.post("/v1/sign", payload, Content_Type="application/json")
    as_digest = daemon.post("/v1/sign", payload, Content_Type=DIGEST_TYPE)
    assert as_payload.headers["Content-Type"] == as_digest.headers["Content-Type"] == BUNDLE_TYPE
    daemon.verify(as_payload.body, payload)
    daemon.verify(as_digest.body, b"else")


def test_content_encoding_is_not_undone(daemon: Daemon) -> None:
    payload = b"\x1f\x8b not gzip at all"
    daemon.verify(daemon.post("/v1/sign", payload, Content_Encoding="gzip").body, payload)


def test_chunked_payload(daemon: Daemon) -> None:
    with dial(daemon.socket) as sock:
        sock.sendall(b"POST /v1/sign HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for part in (b"one ", b"two"):
            sock.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        sock.sendall(b"0\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    daemon.verify(answer.partition(b"\r\n\r\n")[2], b"one two")


def test_challenge(daemon: Daemon) -> None:
    payload = {"alg": "sha-512", "digest": hashlib.sha512(b"doc").hexdigest(), "size": 3}
    reply = daemon.challenge(nonce=NONCE.hex(), payload=payload, context="c", audience="a", claims={"role": "web"})
    assert reply.status == 200
    verdict = daemon.verify(reply.body, b"doc", nonce=NONCE, context="c", audience="a")
    fresh = verdict.bundle.fresh
    assert fresh
    assert fresh.claims_unverified == {"role": "web"}
    assert fresh.caller == {"uid": 0, "gid": 0, "groups": sorted(os.getgroups()), "unit": fresh.caller["unit"]}
    with pytest.raises(BindingMismatch):
        daemon.verify(reply.body, b"doc", nonce=NONCE[::-1])


def test_challenge_without_a_payload_signs_the_empty_one(daemon: Daemon) -> None:
    daemon.verify(daemon.challenge(nonce="00" * 16).body, b"", nonce=bytes(16))


def test_sign_command(daemon: Daemon, tmp_path: Path) -> None:
    payload = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(payload)
    words = [*CLI, "sign", "--config", str(daemon.config), "--context", "ä/&?=", str(tmp_path / "file")]
    daemon.verify(run(*words), payload, context="ä/&?=")
    run(*words, "--fresh", "--nonce", NONCE.hex(), "-o", str(tmp_path / "bundle"))
    daemon.verify((tmp_path / "bundle").read_bytes(), payload, nonce=NONCE, context="ä/&?=")
    fresh = daemon.verify(run(*words, "--fresh"), payload, context="ä/&?=").bundle.fresh
    assert fresh
    assert len(fresh.nonce) == 32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "file"]
    piped = [*CLI, "sign", "-", "--socket", str(daemon.socket), "--config", str(daemon.config)]
    done = subprocess.run(piped, cwd=ROOT, input=b"piped", capture_output=True, check=True, timeout=60)
    daemon.verify(done.stdout, b"piped")


def sign_status(*words: str) -> tuple[int, str]:
    done = subprocess.run([*CLI, "sign", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_sign_command_says_what_is_wrong(daemon: Daemon, tmp_path: Path) -> None:
    config = ("--config", str(daemon.config))
    status, said = sign_status(str(tmp_path / "absent"), *config)
    assert (status, "absent" in said) == (64, True)
    assert sign_status("/etc/hostname", *config, "--fresh", "--nonce", "00")[0] == 64
    assert sign_status("/etc/hostname", *config, "--nonce", "00" * 16)[0] == 64
    status, said = sign_status("/etc/hostname", *config, "--socket", str(tmp_path / "s"))
    assert (status, "is the daemon running" in said) == (75, True)
    assert sign_status("/etc/hostname", "--config", str(tmp_path / "none"))[0] == 78
    assert sign_status("/etc/hostname", *config, "--context", "a\nb")[0] == 65
    assert sign_status("/etc/hostname", *config, "-o", str(tmp_path / "no" / "where"))[0] == 64


def test_status_and_keys(daemon: Daemon) -> None:
    bundle = decode(daemon.post("/v1/sign", b"x").body)
    status = daemon.status()
    assert status["ready"]
    assert status["trouble"] is None
    assert status["service"]["state"] == "not-configured"
    assert len({status["processes"][name]["pid"] for name in ("signer", "fetcher", "quoter")}) == 3
    keys = daemon.request("GET", "/v1/keys").json["keys"]
    assert [key["id"] for key in keys] == [bundle.attachments.key_sha256.hex()] == [status["key"]["id"]]
    assert keys[0]["statement"] == bundle.attachments.statement.to_json()


def problem(daemon: Daemon, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    reply = daemon.request(method, path, body, **headers)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.json["status"] == reply.status
    return reply.status, reply.json["code"]


JSON = {"Content_Type": "application/json"}
GOOD = '"nonce": "00000000000000000000000000000000"'


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (("GET", "/", None, {}), (404, "usage.path")),
        (("GET", "/v1/sign/", None, {}), (404, "usage.path")),
        (("GET", "/v1/sign", None, {}), (405, "usage.method")),
        (("DELETE", "/v1/keys", None, {}), (405, "usage.method")),
        (("POST", "/v1/sign?contxt=a", b"", {}), (400, "usage")),
        (("POST", "/v1/sign?context=a&context=b", b"", {}), (400, "usage")),
        (("POST", "/v1/sign?context=" + "a" * 257, b"", {}), (400, "format")),
        (("POST", "/v1/sign?context=%0a", b"", {}), (400, "format")),
        (("POST", "/v1/sign", b"{}", {"Content_Type": DIGEST_TYPE}), (400, "format")),
        (("POST", "/v1/sign", b"x" * 70000, {"Content_Type": DIGEST_TYPE}), (413, "format.oversized")),
        (("POST", "/v1/challenge", b"{}", {}), (400, "usage.type")),
        (("POST", "/v1/challenge", b"", JSON), (400, "format.json")),
        (("POST", "/v1/challenge", b"[]", JSON), (400, "format.json")),
        (("POST", "/v1/challenge", b'{"nonce":"00"}', JSON), (400, "format")),
        (("POST", "/v1/challenge", b'{"nonce":"zz"}', JSON), (400, "format")),
        (("POST", "/v1/challenge", b"{%s, %s}" % (GOOD.encode(), GOOD.encode()), JSON), (400, "format.json")),
        (("POST", "/v1/challenge", b'{%s, "report_data": "00"}' % GOOD.encode(), JSON), (400, "format")),
        (("POST", "/v1/challenge", b'{%s, "claims": 1}' % GOOD.encode(), JSON), (400, "format")),
        (("POST", "/v1/challenge", b'{%s, "claims": {"a": 1.5}}' % GOOD.encode(), JSON), (400, "format.json")),
        (("POST", "/v1/challenge", b'{%s, "payload": {"alg": "md5"}}' % GOOD.encode(), JSON), (400, "format")),
        (("POST", "/v1/challenge", b"x" * 70000, JSON), (413, "format.oversized")),
        (("GET", "/v1/status?x=1", None, {}), (400, "usage")),
    ],
    ids=str,
)
def test_problems(
    daemon: Daemon, request_: tuple[str, str, bytes | None, dict[str, str]], expected: tuple[int, str]
) -> None:
    method, path, body, headers = request_
    assert problem(daemon, method, path, body, **headers) == expected


def test_a_payload_announced_too_large_is_refused_unread(daemon: Daemon) -> None:
    with dial(daemon.socket) as sock:
        sock.sendall(b"POST /v1/sign HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % ((1 << 30) + 1))
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_others_get_a_clear_no(daemon: Daemon) -> None:
    for path in ("sign", "challenge", "status", "keys", "nothing"):
        status, body = daemon.curl("--data-binary", "x", f"http://agent/v1/{path}", user=as_user(STRANGER))
        assert (status, json.loads(body)["code"]) == (403, "denied")


def test_a_large_body_of_a_stranger_still_gets_its_answer(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(8 << 20))
    tmp_path.chmod(0o755)
    status, _ = daemon.curl(
        "--data-binary",
        "@-",
        "http://agent/v1/sign",
        user=["sh", "-c", 'exec "$@" <"$0"', str(tmp_path / "large"), *as_user(STRANGER)],
    )
    assert status == 403


@pytest.mark.parametrize(
    ("user", "status"),
    [
        (as_user(MEMBER, GROUP), 200),
        (as_user(MEMBER, 4, GROUP), 200),
        (as_user(MEMBER, gid=GROUP), 200),
        (as_user(MEMBER, 4), 403),
        (as_user(GROUP, gid=MEMBER), 403),
        (as_user(STRANGER, gid=0), 403),
    ],
    ids=["supplementary", "one of several", "primary", "other group", "a uid is no gid", "group root"],
)
def test_groups(daemon: Daemon, user: list[str], status: int) -> None:
    assert daemon.curl("--data-binary", "x", "http://agent/v1/sign", user=user)[0] == status


def test_the_callers_groups_stand_in_the_leaf(daemon: Daemon) -> None:
    body = json.dumps({"nonce": NONCE.hex()})
    _, bundle = daemon.curl("--json", body, "http://agent/v1/challenge", user=as_user(MEMBER, 4, GROUP))
    fresh = daemon.verify(bundle, b"", nonce=NONCE).bundle.fresh
    assert fresh
    assert {name: fresh.caller[name] for name in ("uid", "gid", "groups")} == {
        "uid": MEMBER,
        "gid": MEMBER,
        "groups": [4, GROUP],
    }


HAND_OVER = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(b"GET /v1/keys HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
assert sock.recv(65536).startswith(b"HTTP/1.1 200")
socket.send_fds(socket.socket(fileno=int(sys.argv[2])), [b"x"], [sock.fileno()])
"""


def test_a_connection_outlives_nobody(daemon: Daemon) -> None:
    """Who connected was permitted and has exited: whoever holds the connection now gets nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [sys.executable, "-I", "-c", HAND_OVER, str(daemon.socket), str(theirs.fileno())]
        subprocess.run(words, pass_fds=(theirs.fileno(),), check=True, timeout=60)
        _, (got, *_), _, _ = socket.recv_fds(ours, 1, 1)
        with socket.socket(fileno=got) as inherited:
            inherited.settimeout(60)
            inherited.sendall(b"GET /v1/keys HTTP/1.1\r\nHost: a\r\n\r\n")
            assert inherited.recv(1 << 16).startswith(b"HTTP/1.1 403 ")
