"""Search in your own documents: their sources, their stores, and the retrievers over them."""
