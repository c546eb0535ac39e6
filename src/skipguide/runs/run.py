"""A run as readers see it: its settings, prompts, videos, metrics and votes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.generate.record import hash_file, upgrade_settings
from skipguide.method.protocols import PlainData
from skipguide.runs import storage as files
from skipguide.runs.entities import STATUSES, Clip, Model, Prompt, SetMetric, Setting, Status, Vote
from skipguide.runs.ledger import Ledger, to_json, utc_now
from skipguide.runs.prompt_rows import tags_from_ledger
from skipguide.runs.study import StudyLedger
from skipguide.runs.votes import Removal, VoteLedger

if TYPE_CHECKING:
    import numpy as np


class Run:
    """A run directory, open for reading, and for metrics and votes, also while a sweep writes to
    it.

    Use one per thread; `close()` it, or use it as a context manager.
    """

    def __init__(self, folder: Path, ledger: Ledger):
        self.folder, self._ledger = folder, ledger
        self._votes = VoteLedger(ledger)

    @classmethod
    def open(cls, folder: Path | str, writable: bool = False) -> Run:
        """Open a run.

        Args:
            writable: for metrics and votes.

        Raises:
            ValueError: if there is no run in the folder, its ledger is damaged, or of another
                version.
            OSError: if it shall be written and cannot be.
        """
        return cls(Path(folder), Ledger(Path(folder), "write" if writable else "read"))

    @property
    def ledger(self) -> Ledger:
        """The ledger, for the other files of this room."""
        return self._ledger

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what is there ----------------------------------------------------------------------------

    @property
    def is_sweeping(self) -> bool:
        """True if a sweep is writing to this run, on whichever machine.

        The system knows it, by a lock that goes with the process, not a number that another process
        may have by now. Workers of Ray write nothing: their sweep does.
        """
        return files.is_locked(self.folder)

    @property
    def was_interrupted(self) -> bool:
        """True if the last sweep was ended from outside while it made a video.

        The same sweep, run again, goes on.
        """
        running = self._ledger.rows("SELECT 1 FROM jobs WHERE status = 'running' LIMIT 1")
        return bool(running) and not self.is_sweeping

    def plans(self) -> list[str]:
        """Return the plans that were swept here, as written, the oldest first."""
        return [row["text"] for row in self._ledger.rows("SELECT text FROM plans ORDER BY id")]

    def models(self) -> list[Model]:
        """Return the models, in the order in which they came."""
        rows = self._ledger.rows("SELECT * FROM models ORDER BY id")
        return [Model(row["id"], row["name"], json.loads(row["weights"])) for row in rows]

    def prompts(self) -> list[Prompt]:
        """Return the prompts, in the order in which they came."""
        rows = self._ledger.rows("SELECT * FROM prompts ORDER BY id")
        found = []
        for row in rows:
            tags, settings = tags_from_ledger(json.loads(row["tags"]))
            named = (row["id"], row["text"], row["image"])
            found.append(Prompt(*named, tags, row["image_sha256"], settings))
        return found

    def image_of(self, prompt: int) -> Path:
        """Return the image that a prompt starts from, as the sweep has kept it.

        Args:
            prompt: its id.

        Raises:
            ValueError: if the run has no such prompt, it starts from none, or the image is gone or
                changed; runs of older versions have kept none.
        """
        found = next((entry for entry in self.prompts() if entry.id == prompt), None)
        if found is None:
            raise ValueError(
                f"prompt must be the id of a prompt of the run, but got {prompt}. Take one of"
                " Run.prompts()."
            )
        if found.image is None or found.image_sha256 is None:
            raise ValueError(
                f"a prompt must have a picture to start from, but {prompt},"
                f" {str(found.text)[:80]!r}, has none. Choose one that has."
            )
        path = self.folder / files.image_name(found.image_sha256, found.image)
        if not path.is_file() or hash_file(path) != found.image_sha256:
            raise ValueError(
                f"the picture of a prompt must be kept in the run, but {found.image} of prompt"
                f" {prompt} is missing or was changed. Sweep its plan once more: that copies the"
                " picture and makes no video again."
            )
        return path

    def seeds(self) -> list[int]:
        """Return the seeds of all videos."""
        return [
            row["seed"] for row in self._ledger.rows("SELECT DISTINCT seed FROM jobs ORDER BY seed")
        ]

    def settings(self) -> list[Setting]:
        """Return the settings, in the order in which they came."""
        rows = self._ledger.rows(
            "SELECT settings.*, models.name AS of FROM settings JOIN models ON models.id ="
            " settings.model ORDER BY settings.id"
        )
        return [
            Setting(
                row["id"],
                row["name"],
                row["of"],
                json.loads(row["given"]),
                upgrade_settings(json.loads(row["complete"])),
                row["passes_per_step"],
            )
            for row in rows
        ]

    def counts(self) -> dict[Status, int]:
        """Count the videos of each status; none is running where no sweep is."""
        rows = self._ledger.rows("SELECT status, count(*) AS n FROM jobs GROUP BY status")
        found = {**dict.fromkeys(STATUSES, 0), **{row["status"]: row["n"] for row in rows}}
        if found["running"] and not self.is_sweeping:
            found["pending"] += found["running"]
            found["running"] = 0
        return found

    def clips(self, status: Status | None = None) -> list[Clip]:
        """Return one clip per setting, prompt and seed, in the order of the newest plan.

        Of several it is the newest one that is done, if any is.

        Args:
            status: only clips of this status.
        """
        rows = self._ledger.rows(
            "SELECT *, row_number() OVER (PARTITION BY setting, prompt, seed ORDER BY status ="
            " 'done' DESC, added DESC, rowid DESC) AS place FROM jobs ORDER BY position, rowid"
        )
        found = self._clips([row for row in rows if row["place"] == 1])
        return [clip for clip in found if status in (None, clip.status)]

    def clip(self, key: str) -> Clip:
        """Return one clip.

        Raises:
            ValueError: if the run has none of this key.
        """
        found = self._clips(self._ledger.rows("SELECT * FROM jobs WHERE key = ?", key), key)
        if not found:
            raise ValueError(
                f"key must be that of a clip of the run {self.folder}, but got {key!r}."
                " `skipguide runs show --clips` lists them."
            )
        return found[0]

    def _clips(self, rows: Sequence[Any], key: str | None = None) -> list[Clip]:
        """Return the clips of rows; `key` is that of the only one, if there is only one."""
        metrics: dict[str, dict[str, float]] = {}
        of_key, keys = ("", ()) if key is None else ("WHERE job = ?", (key,))
        for row in self._ledger.rows(f"SELECT * FROM metrics {of_key} ORDER BY name", *keys):
            metrics.setdefault(row["job"], {})[row["name"]] = row["value"]
        stored = self._ledger.rows("SELECT id, content FROM environments")
        environments = {row["id"]: json.loads(row["content"]) for row in stored}
        found = [
            self._clip(row, metrics.get(row["key"], {}), environments.get(row["environment"], {}))
            for row in rows
        ]
        if any(clip.status == "running" for clip in found) and not self.is_sweeping:
            # Whoever made them is gone, however its process ended.
            return [
                replace(clip, status="pending") if clip.status == "running" else clip
                for clip in found
            ]
        return found

    def _clip(self, row: Any, metrics: dict[str, float], environment: PlainData) -> Clip:
        same = (
            "key", "setting", "prompt", "seed", "status", "attempts", "error", "frames", "height",
            "width", "frames_sha256", "passes_per_step", "seconds_per_step", "seconds",
        )  # fmt: skip
        files_of = {name: row[name] and self.folder / row[name] for name in ("video", "latents")}
        fps = row["fps"] and Fraction(row["fps"])
        return Clip(
            **{name: row[name] for name in same},
            **files_of,
            fps=fps,
            metrics=metrics,
            environment=environment,
        )

    # --- metrics ----------------------------------------------------------------------------------

    def record_metric(self, key: str, name: str, value: float) -> None:
        """Keep a number of one video; a new one replaces the old.

        Raises:
            ValueError: if the run has no such video.
        """
        self.record_metrics([(key, name, value)])

    def record_metrics(self, rows: Iterable[tuple[str, str, float]]) -> None:
        """Keep numbers of videos, (key, name, value) each: all of them or none."""
        made = utc_now()
        with self._ledger.transaction():
            self._ledger.db.executemany(
                "INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?)", [(*row, made) for row in rows]
            )

    def record_set_metric(self, metric: SetMetric) -> None:
        """Keep a number of all videos of a setting; a new one replaces the old.

        Raises:
            ValueError: if the run has no such setting.
        """
        values = (
            metric.setting,
            metric.name,
            metric.value,
            metric.low,
            metric.high,
            metric.count,
            utc_now(),
        )
        with self._ledger.transaction():
            self._ledger.db.execute(
                "INSERT OR REPLACE INTO set_metrics VALUES (?, ?, ?, ?, ?, ?, ?)", values
            )

    def set_metrics(self) -> list[SetMetric]:
        """Return the metrics of sets, by setting, then name."""
        rows = self._ledger.rows("SELECT * FROM set_metrics ORDER BY setting, name")
        return [
            SetMetric(**{name: row[name] for name in SetMetric.__dataclass_fields__})
            for row in rows
        ]

    def keep_state(
        self, setting: int, name: str, state: Mapping[str, np.ndarray], keys: Iterable[str]
    ) -> None:
        """Keep the sums of a metric of a set, so that more videos can be added later.

        Args:
            state: arrays, as few as the metric needs: the sums of an accumulator, not the videos.
            keys: of the videos that are in it.

        Raises:
            OSError: if it cannot be written.
        """
        import numpy as np
        from safetensors.numpy import save

        arrays = {at: np.asarray(value, order="C") for at, value in state.items()}
        content = save(arrays, {"keys": to_json(sorted(keys))})
        with files.translate_os_errors(self.folder):
            files.write_atomically(self.folder, state_name(setting, name), content)

    def state(self, setting: int, name: str) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return what `keep_state` kept last: the arrays, and the keys of their videos; empty at
        first.

        Raises:
            ValueError: if the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = self.folder / state_name(setting, name)
        if not path.is_file():
            return {}, []
        try:
            with safe_open(path, "numpy") as stored:
                return {at: stored.get_tensor(at) for at in stored.keys()}, json.loads(  # noqa: SIM118
                    stored.metadata()["keys"]
                )
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"the state of a metric must be a safetensors file, but {path} is damaged:"
                f" {error}. Remove it and measure again."
            ) from None

    # --- votes ------------------------------------------------------------------------------------

    @property
    def study(self) -> StudyLedger:
        """The studies of the run: what raters are asked, their consents and attention checks."""
        return StudyLedger(self._ledger)

    def vote(self, vote: Vote, most_changes: int | None = None) -> None:
        """Keep a judgement; the same rater's new answer to the same question replaces the old.

        How often it was changed is counted.

        Args:
            most_changes: how often an answer may be replaced by another one.

        Raises:
            ValueError: for an answer that its kind does not have, videos that the run does not
                have, or an answer that was changed too often.
        """
        self._votes.keep(vote, most_changes)

    def votes(self) -> list[Vote]:
        """Return the votes, in the order in which they were given."""
        return self._votes.all()

    def counted_votes(self) -> list[Vote]:
        """Return the votes but of raters who failed the attention checks, see `study.RULE`."""
        left_out = self.study.left_out()
        return [vote for vote in self.votes() if vote.rater not in left_out]

    def votes_version(self) -> str:
        """Return a text that is another one after every change of the votes or the raters."""
        return self._votes.version()

    def rater_keys(self) -> dict[str, set[str]]:
        """Return the names that raters have taken, each with what its browsers are known by."""
        return self._votes.keys()

    def add_rater_key(self, name: str, key: str, only_first: bool = False) -> bool:
        """Keep that a browser votes under a name, so that nobody else does by chance.

        Args:
            key: what the browser is known by.
            only_first: keep it only if no other browser has the name.

        Returns:
            Whether it is kept.
        """
        return self._votes.add_key(name, key, only_first)

    def remove_rater(self, name: str, forget: bool = False) -> int:
        """Take all votes of a rater out of the run, and free the name.

        They are kept aside, so that `restore_rater` can bring them back.

        Args:
            forget: keep nothing but that somebody with so many votes was removed.

        Returns:
            How many votes were removed.

        Raises:
            ValueError: if nobody of this name has voted or taken the name.
        """
        return self._votes.remove(name, forget)

    def restore_rater(self, name: str) -> int:
        """Bring back what was removed last of a rater, and return how many votes that were.

        Raises:
            ValueError: if nothing is kept aside of them, or the name was taken since.
        """
        return self._votes.restore(name)

    def removals(self) -> list[Removal]:
        """Return which raters were removed, in the order in which they were."""
        return self._votes.removals()


# After the name of a metric: what is kept with its number beside its sums.
REPLICATES = " replicates"


def state_name(setting: int, name: str) -> str:
    """Return the file of a state. Names of metrics may have any letters; names of files may not."""
    return f"metrics/{hashlib.sha256(name.encode()).hexdigest()[:16]}-{setting}.safetensors"
