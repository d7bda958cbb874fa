"""Networks: tensors in, tensors out. `build.build_model` makes them from names."""
