"""Training: the loop behind `train`, its optimizer, and several processes."""
