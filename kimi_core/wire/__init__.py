"""Wire formats that no provider owns."""
