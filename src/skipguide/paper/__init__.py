"""The paper's tables and figures, made again in miniature on the lab's models, with intervals.

experiments has the rows as data, models the three lab models, run makes clips and records them,
alignment measures Figure 2's claim, analysis and report turn the records into
docs/paper-in-miniature.md."""
