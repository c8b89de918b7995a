"""Numbers from predictions: IoU, classification, noise, intervals, results files. Knows no model classes."""
