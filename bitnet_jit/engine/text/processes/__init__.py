"""Workers in processes of their own: one that ends, whatever ends it, costs the others nothing."""
