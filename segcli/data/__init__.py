"""From a raw data set to samples and batches."""
