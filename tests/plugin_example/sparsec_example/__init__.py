"""A plug-in: nothing of SparseC names it, entry points do."""
