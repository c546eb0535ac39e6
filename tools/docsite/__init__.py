"""What `make docs` adds to the pages in docs/: pages made from code and data, and a check that the
built site asks no other host for anything."""
