"""The pure part of the agent: what the kernel should hold, how it differs, and the operations that lead there."""
