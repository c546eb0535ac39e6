"""What fewer forward passes cost in quality: reuse along the noise level, on the lab models.

In order: `rows` (the ways that are compared), `study` (make and measure, resumable), `page` (the
numbers, the figure and docs/reuse.md).
"""
