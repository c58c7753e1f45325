"""One way of scoring each; the registry says which, and nothing here is imported before it is asked for."""
