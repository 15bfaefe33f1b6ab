"""Faults that a person or a test does to a sandbox, and their healing: `veg-sandbox fault`."""
