"""Our server beside others that serve a Python class: the same class model, the same load, in one run."""
