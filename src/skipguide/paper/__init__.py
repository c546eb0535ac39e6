"""The paper's tables and figures, reproduced in miniature on the lab's models, with intervals.

experiments has the rows as data, models the three lab models, run generates clips and records them,
figure2 measures the claim of Figure 2, analysis and report turn the records into
docs/paper-in-miniature.md.
"""
