"""Images in, class maps out."""
