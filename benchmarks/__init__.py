"""One script for each claim about speed: it prints ratios, measured side by side in one run."""
