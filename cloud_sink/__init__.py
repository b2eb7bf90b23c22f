"""The other end: trains models from recordings and publishes them."""
