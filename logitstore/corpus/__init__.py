"""The corpus: files and data sets, cut into work units, as records and as documents."""
