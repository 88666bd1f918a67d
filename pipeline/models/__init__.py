"""Networks by name and the Lightning modules that train them."""
