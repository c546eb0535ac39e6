"""The paper's tables and figures, reproduced in miniature on the lab's models, with intervals.

experiments has the rows as data, models the three lab models, run generates clips and records them,
figure2 measures errors on real clips, analysis and report turn the records into
docs/paper-in-miniature.md and docs/paper/appendix.md, which published reads the numbers of again.
"""
