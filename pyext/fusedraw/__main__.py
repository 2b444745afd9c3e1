# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedraw`: info, demo. (Without torch, `__init__` has said so and left with 1.)"""

import argparse
import sys


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="python -m fusedraw", description="Exact sampling of token ids.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    commands.add_parser("info", help="versions, instruction sets, CUDA, threads")
    demo_parser = commands.add_parser("demo", help="draw from a small model and show what happened")
    if "demo" in argv[:1]:  # imported only when run: it may need more than the package does
        from . import demo

        demo.add_arguments(demo_parser)
    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        return demo.main(arguments)
    from .info import info_text

    print(info_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
