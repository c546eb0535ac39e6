"""The names of the files of a tuning, in its run."""

FOLDER = "tune"
PRESET = "tune.toml"
REPORT = "report.html"
