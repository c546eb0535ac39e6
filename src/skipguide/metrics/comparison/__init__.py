"""The settings of a run against a baseline: one table as data, and the files it is written as.

`cells` says what can be compared, `columns` and `vote_columns` measure it, `table` joins them, and
`layout` is what the writers `markdown`, `latex`, `page` and `data` have in common.
"""

from skipguide.metrics.comparison.table import ComparedRow, Comparison, compare

__all__ = ["ComparedRow", "Comparison", "compare"]
