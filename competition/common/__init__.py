"""Tools of every stage: safe files, errors by kind, settings, the console, processes."""
