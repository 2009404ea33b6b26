"""What every stage uses: files that are never half written, errors by kind, settings, the console, processes."""
