"""Networks: tensors in, tensors out."""
