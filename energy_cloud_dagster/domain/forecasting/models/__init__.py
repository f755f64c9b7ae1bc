"""The models, one module or a few each, and the registry that names them."""
