"""Requests that mean harm, of several shapes, from a seed.

Everything random comes from the given ``random.Random``: the same seed is the same attack.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from agent.daemon.api import ROUTES
from agent.daemon.problem import STATUS

HEAD = b"HTTP/1.1\r\nHost: agent\r\n"
JSON = b"Content-Type: application/json\r\n"
STATUSES = {100, 200, 201, 422, *STATUS.values()} - {500}
"""What docs/api.md knows, and 100."""


def valid(random: Random) -> bytes:
    """A request that is right, of one kind or another."""
    said = json.dumps({"nonce": random.randbytes(16).hex()}).encode()
    question = json.dumps({"document": {"text": "x" * random.randrange(50)}, "any_workload": True}).encode()
    body = random.randbytes(random.randrange(200))
    return random.choice(
        [
            b"POST /v1/sign?context=a %sContent-Length: %d\r\n\r\n%s" % (HEAD, len(body), body),
            b"POST /v1/sign %sTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" % HEAD,
            b"POST /v1/challenge %s%sContent-Length: %d\r\n\r\n%s" % (HEAD, JSON, len(said), said),
            b"POST /v1/verify %s%sContent-Length: %d\r\n\r\n%s" % (HEAD, JSON, len(question), question),
            b"GET /v1/keys %s\r\n" % HEAD,
            b"GET /metrics %sAccept: text/plain\r\n\r\n" % HEAD,
            b"GET /v1/keys/hostile/attestation %s\r\n" % HEAD,
            b"DELETE /v1/keys/none?namespace=x %s\r\n" % HEAD,
        ]
    )


def noise(random: Random) -> bytes:
    return random.randbytes(random.randrange(1, 3000))


def text_noise(random: Random) -> bytes:
    words = [
        b"GET",
        b"POST",
        b" ",
        b"/",
        b"/v1/sign",
        b"HTTP/1.1",
        b"\r\n",
        b"\n",
        b"\r",
        b":",
        b"Host",
        b"\0",
        b"chunked",
    ]
    return b"".join(random.choice(words) for _ in range(random.randrange(1, 60)))


def mutated(random: Random) -> bytes:
    """A right request with a few bytes changed, put in, taken out or doubled."""
    data = bytearray(valid(random))
    for _ in range(random.randrange(1, 6)):
        place, end = sorted((random.randrange(len(data) + 1), random.randrange(len(data) + 1)))
        change = random.randrange(5)
        if change == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << random.randrange(8)
        elif change == 1:
            data[place:place] = random.randbytes(random.randrange(1, 8))
        elif change == 2:
            del data[place : min(end, place + 8)]
        elif change == 3:
            data[place:place] = data[place : min(end, place + 64)]
        else:
            data[place:place] = random.choice([b"\r\n", b"\n", b"\r", b"\0", b": ", b"%00", b"\xff", b"-1"])
    return bytes(data)


def cut(random: Random) -> bytes:
    data = valid(random)
    return data[: random.randrange(len(data))]


def huge_head(random: Random) -> bytes:
    size = random.choice([8_000, 8_190, 8_191, 9_000, 70_000, 400_000])
    many = random.choice([63, 64, 65, 2_000])
    return random.choice(
        [
            b"GET /" + b"a" * size + b" " + HEAD + b"\r\n",
            b"GET /v1/sign?context=" + b"a" * size + b" " + HEAD + b"\r\n",
            b"A" * size + b" /v1/sign " + HEAD + b"\r\n",
            b"GET /v1/keys " + HEAD + b"X: " + b"a" * size + b"\r\n\r\n",
            b"GET /v1/keys " + HEAD + b"a" * size + b": x\r\n\r\n",
            b"GET /v1/keys " + HEAD + b"X: y\r\n" * many + b"\r\n",
            b"GET /v1/keys " + HEAD + b"X: " + b"\t " * (size // 2) + b"\r\n\r\n",
            b"POST /v1/sign " + HEAD + b"Cookie: " + b"a=b; " * (size // 5) + b"\r\n\r\n",
        ]
    )


def bad_chunks(random: Random) -> bytes:
    size = random.choice(
        [b"-1", b"+5", b"0x5", b"5 ", b" 5", b"5;" + b"x" * 9000, b"f" * 17, b"ffffffffffffffff", b"", b"g"]
    )
    body = random.choice(
        [
            size + b"\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\nhello\n0\n\n",
            b"5\r\nhell\r\n0\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX: " + b"y" * random.choice([10, 10_000]) + b"\r\n\r\n",
            b"5\r\nhello\r\n" + b"1\r\nx\r\n" * random.randrange(200),
            b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
            b"5\r\nhello\r\n00000000000000000000\r\n\r\n",
        ]
    )
    return b"POST /v1/sign " + HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body


SMUGGLED = b"GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n"
AMBIGUOUS = [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    b"Content-Length: 0\r\nContent-Length: 5\r\n",
    b"Content-Length: 5, 0\r\n",
    b"Content-Length: +0\r\n",
    b"Content-Length: 0x0\r\n",
    b"Content-Length: -0\r\n",
    b"Content-Length: 0 0\r\n",
    b"Content-Length : 0\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: 99999999999999999999999\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer\x00Encoding: chunked\r\n",
    b"X: y\r\n Content-Length: 0\r\n",
    b"X: y\rContent-Length: 0\r\n",
    b"X: y\x00\r\n",
    b" X: y\r\n",
]
"""Heads whose end of body two readers would see in two places, or that no reader may take."""


def smuggling(random: Random) -> bytes:
    """One of them, with a request behind it that must never be answered as one."""
    return b"POST /v1/sign " + HEAD + random.choice(AMBIGUOUS) + b"\r\n0\r\n\r\n" + SMUGGLED


def odd_requests(random: Random) -> bytes:
    path = random.choice(
        [*ROUTES, "/", "//v1/sign", "/v1/../v1/sign", "/v1/keys/%2e%2e", "/v1/keys/%00", "*", "/%", "/\xff"]
    )
    path = path.replace("{name}", random.choice(["hostile", "", "%ff", "a" * 300, "..", "a/b", "%2f"]))
    method = random.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "get", "M" * 40])
    version = random.choice(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.1 ", "http/1.1", "HTTP/11.1", ""])
    query = random.choice(
        ["", "?", "?a", "?context=%zz", "?context=a&context=b", "?context=%ED%A0%80", "?=&&=", "?" + "a=b&" * 50]
    )
    extra = random.choice(
        ["", "Expect: 100-continue\r\n", "Expect: x\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Accept: \r\n"]
    )
    target = random.choice(["", "", "http://agent", "http://other:99"]) + path + query
    return f"{method} {target} {version}\r\nHost: agent\r\n{extra}\r\n".encode("latin-1")


def value(random: Random, depth: int = 3) -> Any:
    """Some JSON value."""
    kind = random.randrange(9 if depth else 7)
    plain = [
        None,
        True,
        random.randrange(-(2**70), 2**70),
        random.random(),
        "x" * random.randrange(70),
        "\ud800",
        "00" * 16,
    ]
    if kind < len(plain):
        return plain[kind]
    if kind == len(plain):
        return [value(random, depth - 1) for _ in range(random.randrange(4))]
    names = ["nonce", "payload", "claims", "digest", "alg", "data", "document", "", "\0"]
    return {random.choice(names): value(random, depth - 1) for _ in range(random.randrange(4))}


FIELDS = (
    "nonce",
    "payload",
    "context",
    "audience",
    "claims",
    "name",
    "use",
    "algorithm",
    "lifetime_seconds",
    "namespace",
    "overlap_seconds",
    "document",
    "policy",
    "any_workload",
    "at",
    "payloads",
    "challenges",
    "digest",
    "alg",
    "size",
)
TYPES = (
    "application/json",
    "application/vnd.tee-agent.digest+json",
    "application/vnd.tee-agent.batch+json",
    "text/plain",
    "",
)


def wrong_types(random: Random) -> bytes:
    """JSON with right names and wrong values, or hardly JSON."""
    document = {name: value(random) for name in random.sample(FIELDS, random.randrange(1, 5))}
    body = json.dumps(document if random.random() < 0.8 else value(random)).encode()
    if random.random() < 0.2:
        body = random.choice(
            [b"[" * 20_000, b'{"a":' * 5_000, body[:-1], b"\xef\xbb\xbf" + body, body + body, b"1e999", b"NaN"]
        )
    path = random.choice([path for path, methods in ROUTES.items() if "POST" in methods]).replace("{name}", "hostile")
    head = f"POST {path} HTTP/1.1\r\nHost: agent\r\nContent-Type: {random.choice(TYPES)}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def pipelined(random: Random) -> bytes:
    """A right request with something else behind it."""
    return valid(random) + random.choice([noise, mutated, smuggling, valid])(random)


SHAPES: Sequence[Callable[[Random], bytes]] = (
    noise,
    text_noise,
    mutated,
    cut,
    huge_head,
    bad_chunks,
    smuggling,
    odd_requests,
    wrong_types,
    pipelined,
)
