"""What every stage uses: safe files, errors by kind, settings, the console, processes."""
