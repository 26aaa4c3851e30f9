"""AMD's production roots: the keys that sign everything below, by SHA-256 of their SubjectPublicKeyInfo (DER).

Source: cert_chain files of AMD's Key Distribution Service (AMD 57230, section 4.2) for the products named; the
fingerprints were compared across independent projects. The key is pinned, not the certificate: no PEM is shipped.
"""

from __future__ import annotations

from agent.core.model import TrustAnchor

GENUINE: tuple[TrustAnchor, ...] = tuple(
    TrustAnchor(name, bytes.fromhex(digest), genuine=True)
    for name, digest in (
        ("ARK-Milan", "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"),
        ("ARK-Genoa", "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831"),
        ("ARK-Turin", "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08"),
    )
)
