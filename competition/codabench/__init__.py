"""The server at home and its programs: `show_dry_run`, `grade`, `write_bundle`."""
