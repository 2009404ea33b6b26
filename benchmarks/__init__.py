"""One script for each claim: it prints numbers, measured side by side in one run."""
