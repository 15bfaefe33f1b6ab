"""api's neighbours: the object store and the process' own cache of it."""
