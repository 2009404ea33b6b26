"""Dataset -> issues.csv, cleaned.npz, report.html: `clean(dataset, folder, config, weights)`."""
