"""The studio: a page to see and to judge the videos of a run, and the same page as a folder.
docs/studio.md.

`skipguide studio RUN` serves it, `skipguide report RUN` writes it.
"""
