"""Quotes without hardware, for unit tests of what surrounds them: the blob is made of the purpose and its fields."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable

from agent.core import binding
from agent.core.errors import TeeAgentError
from agent.core.model import Endorsements, Evidence, Nonce, Tee
from agent.core.ports import Deadline


class FakeQuotes:
    """agent.quoter.Quotes: raises what ``failures`` holds first, waits for ``gate`` before each answer."""

    def __init__(self, failures: Iterable[TeeAgentError] = ()) -> None:
        self.failures = list(failures)
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[tuple[object, ...]] = []

    def tas(self, nonce: Nonce, wrapping_key: bytes, *, deadline: Deadline) -> Evidence:
        return self._evidence("tas", nonce.text, wrapping_key)

    def signing_key(
        self, algorithm: str, use: str, spki: bytes, statement_digest: bytes, *, deadline: Deadline
    ) -> Evidence:
        return self._evidence("signing_key", algorithm, use, spki, statement_digest)

    def challenge_batch(self, tree_size: int, root: bytes, *, deadline: Deadline) -> Evidence:
        return self._evidence("challenge_batch", tree_size, root)

    def collect(self, nonce: bytes, *, deadline: Deadline) -> Evidence:
        return self._evidence("collect", nonce)

    def _evidence(self, *asked: object) -> Evidence:
        self.asked.append(asked)
        assert self.gate.wait(30)
        if self.failures:
            raise self.failures.pop(0)
        return Evidence(Tee.SNP, hashlib.sha512(repr(asked).encode()).digest(), b"table", "fake")


class NoOtherQuotes:
    """The rest of agent.quoter.Quotes for one that only knows ``tas``: asking for it fails the test."""

    def signing_key(
        self, algorithm: str, use: str, spki: bytes, statement_digest: bytes, *, deadline: Deadline
    ) -> Evidence:
        raise AssertionError

    def challenge_batch(self, tree_size: int, root: bytes, *, deadline: Deadline) -> Evidence:
        raise AssertionError

    def collect(self, nonce: bytes, *, deadline: Deadline) -> Evidence:
        raise AssertionError


def complete(evidence: Evidence) -> tuple[bytes, Endorsements]:
    """agent.daemon.keys.Complete without a vendor."""
    return evidence.blob, Endorsements()


class Bound(NoOtherQuotes):
    """Quotes whose evidence is REPORT_DATA itself, inside something of a report's size."""

    def tas(self, nonce: Nonce, wrapping_key: bytes, *, deadline: Deadline) -> Evidence:
        return Evidence(Tee.SNP, bytes(80) + binding.tas(nonce, wrapping_key).value + bytes(1040))
