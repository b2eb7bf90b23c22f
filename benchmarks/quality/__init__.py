"""How well machines' faults are found, on recordings that nobody here made: the product's own path, judged by the field's
metrics."""
