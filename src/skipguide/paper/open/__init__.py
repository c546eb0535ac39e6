"""STG where prompts leave things open: lab-mochi-2 on closed, half open and open prompts.

In order: `prompts` (what is asked for), `study` (the rows), `clips` (how they are made and read),
`measures` (what is measured), `run` (all of it, resumable), `page` (docs/open-prompts.md).
"""
