"""The pretraining step beside other people's; `__main__.py` says how to run it."""
