"""`vhostnvme persona`: the drives that an emulated one can look like."""

from __future__ import annotations

import argparse
import sys

from vhostnvme.cli.verbs import add_verb, add_verbs, run_verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "A persona is JSON of what `nvme id-ctrl`, `id-ns` and `smart-log` print with -o json;"
        " serve and boot take one with --persona (docs/nvme-ssd.md)."
    )
    verbs = add_verbs(parser)
    add_verb(verbs, "list", _list, "list those that are shipped", "persona list", of_card=False)
    for name, act, line in (
        ("show", _show, "print the file of one"),
        ("check", _check, "say what of one cannot be honoured"),
    ):
        example = f"persona {name} my-drive.json"
        verb = add_verb(verbs, name, act, line, example, of_card=False)
        verb.add_argument("persona", metavar="FILE|NAME", help="a file, or a name of the list")


def run(args: argparse.Namespace) -> int:
    return run_verb(args)


def _list(_: argparse.Namespace) -> int:
    from vhostnvme.personas import load_persona, shipped

    for name in shipped():
        persona = load_persona(name)
        model = persona.text("mn", 40) or ""
        sys.stdout.write(f"{name}: {model}; {persona.description}\n")
    return 0


def _show(args: argparse.Namespace) -> int:
    from vhostnvme.personas import load_persona

    sys.stdout.write(load_persona(args.persona).source.decode().rstrip("\n") + "\n")
    return 0


def _check(args: argparse.Namespace) -> int:
    import json

    from vhostnvme.emulation.persona import native_persona, ours
    from vhostnvme.personas import load_persona, problems

    persona = load_persona(args.persona)
    found = problems(persona, ours())
    for each in found:
        sys.stdout.write(f"{each.field} cannot be honoured: {each.why}\n")
    if found:
        ignored = json.dumps(sorted({each.field for each in found}))
        sys.stdout.write(f'to do without, put into the file: "ignore": {ignored}\n')
        return 1
    native_persona(persona)
    sys.stdout.write(f"persona {persona.name} can be honoured\n")
    return 0
