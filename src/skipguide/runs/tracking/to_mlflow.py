"""MLflow: an experiment for a run, a run of it for each setting.

What is there already is asked of the store itself.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from skipguide.runs.tracking.subject import Subject, TrackedSetting, table_csv

_BATCH = 500  # metrics of one request; the store takes 1000
_PARAMETERS = 100  # of one request
_LONGEST = 6000  # characters of a parameter
_RUN, _SETTING = "skipguide.run", "skipguide.setting"  # tags that find a run again


class MLflow:
    """Logs to a store of MLflow: MLFLOW_TRACKING_URI, or mlflow.db in this folder.

    Args:
        uri: another store.

    Raises:
        ValueError: if the store refuses.
    """

    def __init__(self, uri: str | None):
        try:
            self.client = import_module("mlflow.tracking").MlflowClient(tracking_uri=uri)
            self.client.search_experiments(max_results=1)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                "--track mlflow must have a store that it can write, but"
                f" {uri or os.environ.get('MLFLOW_TRACKING_URI') or 'mlflow.db here'} is not:"
                f" {reason} Name another with MLFLOW_TRACKING_URI or mlflow:URI."
            ) from error
        self._runs: dict[str, _Known] = {}

    @property
    def place(self) -> str:
        """The command that shows it."""
        uri = self.client.tracking_uri
        return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"

    def update(self, subject: Subject) -> int:
        """Log what the store does not have yet."""
        return sum(self._update_setting(subject, setting) for setting in subject.settings)

    def _update_setting(self, subject: Subject, setting: TrackedSetting) -> int:
        metric = import_module("mlflow.entities").Metric
        known = self._find(subject, setting)
        clips = 0
        metrics: list[Any] = []
        for clip in setting.clips:
            moment = round(1000 * clip.finished)
            for name, value in clip.numbers.items():
                if known.is_new(_metric_name(name), clip.step, value):
                    metrics.append(metric(_metric_name(name), value, moment, clip.step))
            if clip.video.name not in known.videos:
                self.client.log_artifact(known.id, str(clip.video), "clips")
                known.videos.add(clip.video.name)
                clips += 1
        last = max(round(1000 * clip.finished) for clip in setting.clips)
        for name, value in setting.numbers.items():
            if known.is_new(_metric_name(name), setting.count, value):
                metrics.append(metric(_metric_name(name), value, last, setting.count))
        for i in range(0, len(metrics), _BATCH):
            self.client.log_batch(known.id, metrics=metrics[i : i + _BATCH])
        if setting.numbers and (text := table_csv(setting)) != known.table:
            self.client.log_text(known.id, text, "clips.csv")
            known.table = text
        return clips

    def _find(self, subject: Subject, setting: TrackedSetting) -> _Known:
        """Return the run of a setting with what it has; it is made where there is none."""
        if setting.identity not in self._runs:
            experiment = self._experiment(subject.name)
            tags = {_RUN: subject.identity, _SETTING: setting.identity}
            query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
            found = self.client.search_runs([experiment], query, max_results=1)
            if not found:
                begun = min(round(1000 * clip.finished) for clip in setting.clips)
                found = [self.client.create_run(experiment, begun, tags, setting.name)]
            known = _Known(self.client, found[0])
            self.client.update_run(known.id, status="RUNNING", name=setting.name)
            self._log_parameters(known, setting)
            self._runs[setting.identity] = known
        return self._runs[setting.identity]

    def _experiment(self, name: str) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or name
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return self.client.create_experiment(name)
        if found.lifecycle_stage == "deleted":  # its name cannot be had again
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _log_parameters(self, known: _Known, setting: TrackedSetting) -> None:
        param = import_module("mlflow.entities").Param
        new = [
            param(name, str(value)[:_LONGEST])
            for name, value in setting.parameters.items()
            if name not in known.parameters
        ]
        for i in range(0, len(new), _PARAMETERS):
            self.client.log_batch(known.id, params=new[i : i + _PARAMETERS])

    def close(self) -> None:
        """Mark the runs as finished."""
        for known in self._runs.values():
            self.client.set_terminated(known.id, "FINISHED")
        self._runs.clear()


class _Known:
    """A run of MLflow, with what is logged in it already."""

    def __init__(self, client: Any, run: Any):
        self.id: str = run.info.run_id
        self.parameters = set(run.data.params)
        self.table = ""
        self.videos = {PurePosixPath(f.path).name for f in client.list_artifacts(self.id, "clips")}
        self._values = {
            (name, point.step, point.value)
            for name in run.data.metrics
            for point in client.get_metric_history(self.id, name)
        }

    def is_new(self, name: str, step: int, value: float) -> bool:
        """Return whether a value is not there yet; it is from then on."""
        if (name, step, value) in self._values:
            return False
        self._values.add((name, step, value))
        return True


def _metric_name(name: str) -> str:
    """Return a name that every store of MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)
