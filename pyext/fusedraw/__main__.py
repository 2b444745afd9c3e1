# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedraw`: info, demo, bench, audit. (Without torch, `__init__` has said so and left with 1.)"""

import argparse
import sys


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="python -m fusedraw", description="Exact sampling of token ids.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    commands.add_parser("info", help="versions, instruction sets, CUDA, threads")
    demo_parser = commands.add_parser("demo", help="draw from a small model and show what happened")
    bench_parser = commands.add_parser("bench", help="time per call beside floors and other samplers")
    audit_parser = commands.add_parser("audit", help="where a model's randomness comes from, as a report")
    # imported only when run: they need more than the package does
    if "demo" in argv[:1]:
        from . import demo

        demo.add_arguments(demo_parser)
    if "bench" in argv[:1]:
        from .bench import command

        command.add_arguments(bench_parser)
    if "audit" in argv[:1]:
        from .audit import command as audit

        audit.add_arguments(audit_parser)
    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        return demo.main(arguments)
    if arguments.command == "bench":
        return command.main(arguments)
    if arguments.command == "audit":
        return audit.main(arguments)
    from .info import info_text

    print(info_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
