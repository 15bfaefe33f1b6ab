"""OVN for the sandbox: where its programs come from, and the daemons of the central databases and nodes."""
