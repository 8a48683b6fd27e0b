"""A corpus of faulty and healthy training programs, and what judges say of them."""
