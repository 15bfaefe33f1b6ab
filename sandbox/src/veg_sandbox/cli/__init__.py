"""The command line `veg-sandbox`: kubectl's verbs and outputs for the sandbox's object store. Imports lazily."""
