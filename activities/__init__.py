"""Side effects, one verb each."""
