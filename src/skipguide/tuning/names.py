"""The names of the files of a tuning, in its run."""

FOLDER = "tune"
ANSWER = f"{FOLDER}/answer.json"
PRESET = "tune.toml"
REPORT = "report.html"
