"""Offline verification of a key document. Numbered checks, the first that fails ends it:

1. form: canonical, complete, at most 1 MiB (failing is a FormatError)
2. the statement is for this algorithm, and for the use that is asked for
3. the statement is in force
4. the key is the one asked for, and kept where it may be
5. onwards: the evidence with the REPORT_DATA that binds key and statement; floor; policy
"""

from __future__ import annotations

from agent.core import keydoc, sshsig
from agent.core.sshwire import PublicKey
from agent.verify.signed import Judge, KeyVerdict, Trial, required


def verify_key(data: bytes, judge: Judge, *, use: str | None = None) -> KeyVerdict:
    """Verify one key document; ``use`` None takes a key for any use, and the verdict says so.

    Of a key for ssh the verdict has the public key as ssh's files have it.

    Raises UsageError, FormatError, VerificationError (with the checks made so far).
    """
    key = keydoc.decode(data)  # 1
    required(key, judge)
    trial = Trial("key document")
    trial.use(key, use)  # 2
    if use is None:
        trial.left_out.append("use: not compared")
    verified = trial.key(key, keydoc.report_data(key), judge)  # 3, 4, 5
    said = {"ssh": PublicKey.of(key.spki).line()} if key.statement.use == sshsig.USE else {}
    return trial.verdict(key, verified, said)
