"""From a pruned graph to something a device runs faster: one folder a backend."""

if __name__ != "sparsec.backends":  # imported from the checkout as a bare top-level package
    raise ImportError(
        "import sparsec.backends, not backends: the folder is installed as sparsec.backends"
    )
