"""Edits of our token, each read back and compared."""

from __future__ import annotations

from dataclasses import replace

from agent.core.model import Secret
from agent.disk import compare, cryptsetup, keys
from agent.disk.header import Header
from agent.disk.token import Binding
from agent.disk.volume import Volume


def put(volume: Volume, header: Header, number: int, binding: Binding) -> Header:
    """Write ``binding`` as token ``number``; returns the header read back. Raises DiskError, HeaderTampered."""
    document = binding.document()
    replacing = number in header.metadata.tokens
    cryptsetup.put_token(volume.device, number, document, replace=replacing, deadline=volume.deadline)
    after = volume.edited(header)
    compare.verify(header, after, tokens={number: document})
    return after


def finish(volume: Volume, secret: Secret, header: Header, number: int, pending: Binding) -> tuple[Header, Binding]:
    """Turn a pending token, whose slot is there and ours, into a bound one with its MAC. Raises as ``put``."""
    unsigned = replace(pending, state="bound")
    binding = replace(unsigned, mac=keys.header_mac(secret, header, unsigned))
    after = put(volume, header, number, binding)
    keys.verify_mac(secret, after, binding)
    return after, binding


def remove(volume: Volume, header: Header, number: int) -> Header:
    """Remove token ``number``; returns the header read back. Raises DiskError, HeaderTampered."""
    cryptsetup.remove_token(volume.device, number, volume.deadline)
    after = volume.edited(header)
    compare.verify(header, after, tokens={number: None})
    return after
