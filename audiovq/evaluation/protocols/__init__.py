"""One module for each sub-command of ``audiovq evaluate``."""
