"""How the project's container images are made and brought to a node."""
