"""A studio with a study, and beside it the server for raters, over TLS: what `--share` starts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from skipguide.runs import Run
from skipguide.runs.study import Study
from skipguide.studio import app, attention, certificate, connections, study_plan
from skipguide.studio.access import Policy
from skipguide.studio.sharing import Sharing
from support.served import Served

TEXT = "# Consent\n\nYou judge **short** videos.\n\n- You can stop.\n- <b>Nothing</b> is sold."


def begin_study(folder: Path, **more: Any) -> Study:
    """Begin a study of two settings in a run, as `--tasks` does: of three pairs and two checks."""
    asked: dict[str, Any] = {
        "kind": "pair", "settings": ["cfg", "stg layers=4 scale=0.5"], "tasks": 3, "checks": 2,
        "consent": TEXT, "most_raters": 3, **more,
    }  # fmt: skip
    with Run.open(folder, writable=True) as run:
        study = study_plan.plan_study(run, **asked)
        attention.prepare(run, study)
        return run.study.begin(study, asked["consent"])


class Shared:
    """A studio with a study, and the server for raters beside it, over TLS."""

    def __init__(
        self, folder: Path, tasks: int = 3, text: str = TEXT, shown: str | None = None
    ) -> None:
        begin_study(folder, tasks=tasks, consent=text, most_raters=9)
        self.folder, policy = folder, Policy(secret=b"secret")
        self.own = certificate.load_own(folder, ["127.0.0.1"])
        listener = socket.create_server(("127.0.0.1", 0))
        for_raters = Policy(secret=b"secret", raters_only=True)
        files = (str(self.own.file), str(self.own.key))
        made = app.create_rater_app(folder, for_raters)
        self.outside = connections.SharedServer(made, listener, files)
        base = f"https://127.0.0.1:{listener.getsockname()[1]}"
        self.link = f"{base}/vote?token={for_raters.rater_token}"
        sharing = Sharing(
            shown or self.link,
            "Raters reach this machine at 192.168.1.5 (wlan0).",
            "self-signed",
            self.own.fingerprint,
            "2027-01-01",
        )
        self.studio = Served(folder, policy, sharing)

    def __enter__(self) -> Shared:
        self.outside.__enter__()
        self.studio.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.studio.__exit__()
        self.outside.__exit__()
