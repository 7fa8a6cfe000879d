"""Search on the web: what asks search engines, and reads pages as a careful visitor does."""
