"""`paged_attention`: rotary positions, the writes into the pages of a cache, and attention over them."""
