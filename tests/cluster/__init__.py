"""Jobs on Ray clusters: real nodes on this machine, and the files that start them elsewhere."""
