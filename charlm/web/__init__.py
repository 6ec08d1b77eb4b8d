"""Pages to look at, one file each that needs no network, and a server that answers with a model."""
