"""Build the package of the Lambda function, or renew the locks that it is built from.

    python scripts/build_lambda.py                          # both architectures, into dist/lambda
    python scripts/build_lambda.py --architecture arm64 --output somewhere
    python scripts/build_lambda.py --lock                   # with Python 3.13

`magg deploy` builds what it needs by itself; this is for those who look at the package, keep it, or
build it on another machine (`magg deploy --package somewhere`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from magg.deploy import package, wheels
from magg.errors import DeployError


def main() -> int:
    """Build or lock, and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--architecture", choices=wheels.ARCHITECTURES, action="append", help="may be given again"
    )
    parser.add_argument("--output", type=Path, default=Path("dist/lambda"), help="folder")
    parser.add_argument("--lock", action="store_true", help="renew the locks instead")
    arguments = parser.parse_args()
    try:
        for architecture in arguments.architecture or wheels.ARCHITECTURES:
            if arguments.lock:
                print(f"wrote {_lock(architecture)}")
                continue
            built = package.build(architecture, arguments.output)
            print(package.describe(built))
            for path in (built.function, built.layer):
                print(f"  {package.digest_of(path)}  {path}")
    except DeployError as error:
        print(f"build_lambda: {error}", file=sys.stderr)
        return 1
    return 0


def _lock(architecture: wheels.Architecture) -> Path:
    path = Path(wheels.__file__).parent / "locks" / f"{architecture}.txt"
    text = wheels.make_lock(architecture)
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
