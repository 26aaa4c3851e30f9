"""Volumes bound, opened and unbound as the commands do it, with a fetcher that needs no service."""

from __future__ import annotations

from pathlib import Path
from typing import Never

from agent.deadline import Deadline
from agent.disk import bind as binding
from agent.disk import unbind as unbinding
from agent.disk import unlock as unlocking
from agent.disk.bind import Bound
from agent.disk.unbind import Unbound
from agent.disk.unlock import Opened
from agent.disk.volume import Fetch
from tests.support.luks import PASSPHRASE, asking, fetching, volume

FETCH = fetching()


def deadline() -> Deadline:
    return Deadline(60, "test")


def bind(image: Path, fetch: Fetch = FETCH, passphrase: bytes = PASSPHRASE, *policies: str) -> Bound:
    return binding.bind(
        volume(image, "data", *policies), ask=asking(passphrase), fetch=fetch, deadline=deadline(), unmeasured_boot=True
    )


def check(image: Path, fetch: Fetch = FETCH) -> Opened:
    return unlocking.test(volume(image), fetch=fetch, deadline=deadline())


def unbind(image: Path, fetch: Fetch = FETCH, passphrase: bytes = PASSPHRASE) -> Unbound:
    return unbinding.unbind(volume(image), ask=asking(passphrase), fetch=fetch, deadline=deadline())


def never(*_: object) -> Never:
    raise AssertionError("must not be called")
