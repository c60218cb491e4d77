"""Transformations of a graph: each says exactly what it changed and what it left alone."""

if __name__ != "sparsec.passes":  # imported from the checkout as a bare top-level package
    raise ImportError(
        "import sparsec.passes, not passes: the folder is installed as sparsec.passes"
    )
