"""`python -m charlm`: the same program as the `charlm` command."""

from charlm.cli import app

app()
