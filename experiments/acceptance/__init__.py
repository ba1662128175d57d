"""One command that proves on a GPU what this project says of itself; `__main__.py` says how to run it."""
