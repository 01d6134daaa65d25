"""Videos, annotations, features and batches."""
