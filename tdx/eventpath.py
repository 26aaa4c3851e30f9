"""UEFI device paths as text, in the form of UEFI 2.10 section 10.6: ``PciRoot(0x0)/Pci(0x3,0x0)/\\EFI\\BOOT\\x.efi``.

Nodes of kinds that are not listed come out as ``Path(type,subtype,hex)``. Bounded and total: what is malformed is
a FormatError, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.core.errors import FormatError, Oversized
from tdx.eventread import Cursor, ucs2

MAX_NODES = 64
_END = (0x7F, 0xFF)
_END_INSTANCE = (0x7F, 0x01)
_PNP = 0x41D0
"""EISA vendor PNP, in the lower half of a HID."""
_PCI_ROOTS = (0x0A03, 0x0A08)
_KERNEL_LOADER = "1428f772-b64a-441e-b8c3-9ebdd7f893c7"


def device_path(data: bytes) -> str:
    """The path in ``data``, which ends with it. Raises Truncated, Oversized, FormatError."""
    cursor = Cursor(data, "device path")
    parts: list[str] = []
    while cursor.left:
        if len(parts) == MAX_NODES:
            raise Oversized(f"device path has more than {MAX_NODES} nodes", record="device path")
        kind = cursor.number(1, "node type"), cursor.number(1, "node subtype")
        size = cursor.number(2, "node length")
        if size < 4:
            raise FormatError(f"device path: a node of {size} bytes", record="device path", offset=cursor.at - 2)
        body = cursor.take(size - 4, "node")
        if kind == _END:
            return "/".join(parts)
        parts.append("," if kind == _END_INSTANCE else _node(kind, body))
    return "/".join(parts)


def _node(kind: tuple[int, int], body: bytes) -> str:
    known = _NODES.get(kind)
    try:
        return known(Cursor(body, "node")) if known else _other(kind, body)
    except FormatError:
        return _other(kind, body)


def _other(kind: tuple[int, int], body: bytes) -> str:
    return f"Path({kind[0]},{kind[1]},{body[:64].hex()})"


def _numbers(name: str, *sizes: int) -> Callable[[Cursor], str]:
    """Integers of these sizes, in order."""
    return lambda node: f"{name}({','.join(f'0x{node.number(size, name):x}' for size in sizes)})"


def _guid(name: str) -> Callable[[Cursor], str]:
    return lambda node: f"{name}({_named(node.guid(name))})"


def _named(guid: str) -> str:
    return "QEMU kernel loader" if guid == _KERNEL_LOADER else guid


def _pci(node: Cursor) -> str:
    function, device = node.number(1, "function"), node.number(1, "device")
    return f"Pci(0x{device:x},0x{function:x})"


def _acpi(node: Cursor) -> str:
    hid, uid = node.number(4, "HID"), node.number(4, "UID")
    if hid & 0xFFFF != _PNP:
        return f"Acpi(0x{hid:08x},0x{uid:x})"
    if hid >> 16 in _PCI_ROOTS:
        return f"PciRoot(0x{uid:x})"
    return f"Acpi(PNP{hid >> 16:04X},0x{uid:x})"


def _hard_drive(node: Cursor) -> str:
    number, start, size = node.number(4, "partition"), node.number(8, "start"), node.number(8, "size")
    signature = node.take(16, "signature")
    scheme, how = node.number(1, "format"), node.number(1, "signature type")
    where = f"0x{start:x},0x{size:x}"
    if scheme == how == 2:
        return f"HD({number},GPT,{Cursor(signature, 'signature').guid('GUID')},{where})"
    return f"HD({number},MBR,0x{int.from_bytes(signature[:4], 'little'):08x},{where})"


def _nvme(node: Cursor) -> str:
    namespace, eui = node.number(4, "namespace"), node.take(8, "EUI-64")
    return f"NVMe(0x{namespace:x},{'-'.join(f'{byte:02X}' for byte in reversed(eui))})"


def _mac(node: Cursor) -> str:
    address, kind = node.take(32, "address"), node.number(1, "interface type")
    return f"MAC({address[:6].hex()},0x{kind:x})"


def _ipv4(_: Cursor) -> str:
    return "IPv4"


def _ipv6(_: Cursor) -> str:
    return "IPv6"


def _uri(node: Cursor) -> str:
    return f"Uri({node.rest().decode('ascii', 'replace')})"


def _file(node: Cursor) -> str:
    return ucs2(node.rest())


_NODES: Mapping[tuple[int, int], Callable[[Cursor], str]] = {
    (1, 1): _pci,
    (1, 3): _numbers("MemoryMapped", 4, 8, 8),
    (1, 4): _guid("VenHw"),
    (2, 1): _acpi,
    (3, 1): _numbers("Ata", 1, 1, 2),
    (3, 2): _numbers("Scsi", 2, 2),
    (3, 5): _numbers("USB", 1, 1),
    (3, 10): _guid("VenMsg"),
    (3, 11): _mac,
    (3, 12): _ipv4,
    (3, 13): _ipv6,
    (3, 18): _numbers("Sata", 2, 2, 2),
    (3, 23): _nvme,
    (3, 24): _uri,
    (4, 1): _hard_drive,
    (4, 2): _numbers("CDROM", 4, 8, 8),
    (4, 3): _guid("VenMedia"),
    (4, 4): _file,
    (4, 6): _guid("FvFile"),
    (4, 7): _guid("Fv"),
}
