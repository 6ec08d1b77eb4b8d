"""Every setting of a run, and the files, overrides and names that people give it by."""
