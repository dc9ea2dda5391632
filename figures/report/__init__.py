"""How figures look, and the page that holds them."""
