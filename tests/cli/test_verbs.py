"""The verbs are imported when they are used, and their table says what they say themselves."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from typer.main import get_command

from skipguide.cli import app
from skipguide.cli.verbs import VERBS


def test_the_table_has_the_first_sentence_of_each_verb() -> None:
    group: Any = get_command(app)
    for name, verb in VERBS.items():
        assert group.commands[name].get_short_help_str(limit=100) == verb.help.rstrip()
    assert list(group.commands) == list(VERBS)


def test_help_imports_no_verb() -> None:
    script = (
        "import contextlib, sys\n"
        "from skipguide.cli import main\n"
        "sys.argv = ['skipguide', '--help']\n"
        "with contextlib.suppress(SystemExit):\n    main()\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'pydantic', 'numpy', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print([name for name in sys.modules if name.startswith('skipguide.cli.generate')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    *text, heavy, verbs = done.stdout.strip().splitlines()
    assert (heavy, verbs, done.stderr) == ("[]", "[]", "")
    assert all(any(line.split()[:1] == [name] for line in text) for name in VERBS)
