"""skipguide runs, with the verbs of it that have files of their own."""

from __future__ import annotations

from skipguide.cli.annotate import TAG_CONTEXT, note, tag
from skipguide.cli.merge import merge
from skipguide.cli.run_export import export
from skipguide.cli.run_table import compare
from skipguide.cli.runs import runs
from skipguide.cli.track import track

runs.command("compare")(compare)
runs.command("export")(export)
runs.command("tag", context_settings=TAG_CONTEXT)(tag)
runs.command("note")(note)
runs.command("merge")(merge)
runs.command("track")(track)
