"""Search in documents of one's own: where they come from, how they are stored, and what finds them."""
