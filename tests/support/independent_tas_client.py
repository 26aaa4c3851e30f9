"""A client of the attestation service written from the protocol document alone: nothing of the product is imported.

usage: independent_tas_client.py URL CA_FILE API_KEY_FILE TSM_FOLDER TEE_TYPE POLICY_ID [CERTIFICATE.pem...]

Prints the secret in hex. Evidence comes from the kernel's interface: a folder made below TSM_FOLDER.
"""

import base64
import hashlib
import http.client
import json
import ssl
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def call(connection: http.client.HTTPSConnection, method: str, path: str, api_key: str, document: Any = None) -> Any:
    headers = {"X-API-KEY": api_key} | ({"Content-Type": "application/json"} if document else {})
    connection.request(method, path, json.dumps(document) if document else None, headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        sys.exit(f"{answer.status} {text.decode()}")
    return json.loads(text)


def evidence(folder: Path, report_data: bytes) -> bytes:
    entry = folder / "independent-client"
    entry.mkdir()
    try:
        (entry / "inblob").write_bytes(report_data)
        return (entry / "outblob").read_bytes()
    finally:
        entry.rmdir()


def main(url: str, ca_file: str, api_key_file: str, *words: str) -> None:
    folder, tee_type, policy_id, *certificates = words
    host, port = url.removeprefix("https://").rsplit(":", 1)
    context = ssl.create_default_context(cafile=ca_file)
    connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=context)
    api_key = Path(api_key_file).read_text().strip()
    key = rsa.generate_private_key(65537, 3072)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    nonce = call(connection, "GET", "/kb/v0/get_nonce", api_key)["nonce"]
    report_data = hashlib.sha512(nonce.encode() + public).digest()
    document = {
        "tee-type": tee_type,
        "nonce": nonce,
        "tee-evidence": base64.b64encode(evidence(Path(folder), report_data)).decode(),
        "policy-id": policy_id,
        "report-data-binding": True,
        "wrapping-key": base64.b64encode(public).decode(),
    }
    if certificates:
        ders = [ssl.PEM_cert_to_DER_cert(Path(name).read_text()) for name in certificates]
        document["endorsements"] = {"certificates": [base64.b64encode(der).decode() for der in ders]}
    sealed = call(connection, "POST", "/kb/v0/get_secret", api_key, document)["secret_key"]
    part = {name: base64.b64decode(value) for name, value in sealed.items()}
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    aes = key.decrypt(part["wrapped_key"], oaep)
    print(AESGCM(aes).decrypt(part["iv"], part["blob"] + part["tag"], None).hex())


if __name__ == "__main__":
    main(*sys.argv[1:])
