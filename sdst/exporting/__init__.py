"""Programs of a trained side-tuner that run without this library."""
