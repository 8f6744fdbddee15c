"""`make demo`: the whole product, small but real, from nothing to a restored backup."""
