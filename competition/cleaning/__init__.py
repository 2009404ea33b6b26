"""Dataset -> issues.csv, keep.npy, labels.npy, report.html: `clean(dataset, folder, config, weights)`."""
