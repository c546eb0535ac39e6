"""The rules of CFG beside each other: where they come from, and what they do on lab-mochi.

In order: `rows` (the ways that are compared, measured by `reuse.study`) and `page` (docs/rules.md).
"""
