"""One target under atheris: ``python -m tests.fuzz.child TARGET [libFuzzer's options and folders]``.

A process of its own, for libFuzzer ends the process when it is done, and coverage needs the parsers to be imported
under atheris' eyes.
"""

from __future__ import annotations

import sys

import atheris

PARSERS = ["agent", "snp", "tdx", "tas", "tomllib", "rfc8785", "base64", "json.decoder"]
"""What is instrumented: ours, and those pure Python parsers that ours stand on."""


def main() -> None:
    with atheris.instrument_imports(include=PARSERS):
        from tests.fuzz.contract import hold
        from tests.fuzz.targets import TARGETS
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda data: hold(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
