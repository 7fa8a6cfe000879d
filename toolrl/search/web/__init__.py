"""Web search: asks search engines, and reads pages politely and safely."""
