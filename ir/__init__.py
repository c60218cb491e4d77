"""What is true about a graph and its operators: loading, weight sites, patterns, checks."""

if __name__ != "sparsec.ir":  # imported from the checkout as a bare top-level package
    raise ImportError("import sparsec.ir, not ir: the folder is installed as sparsec.ir")
