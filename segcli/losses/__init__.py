"""What training minimises. Tensors in, named scalars out."""
